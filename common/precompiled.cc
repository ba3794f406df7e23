// Has the precompiled header made; there is nothing else.
