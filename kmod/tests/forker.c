// SPDX-License-Identifier: GPL-2.0
/*
 * forker COUNT FIRST LAST: forks children that end at once, one after another, and prints the pids
 * that are not within FIRST to LAST. COUNT 0: until it is killed.
 *
 * Linked statically: a fork has little memory to copy, so that most of a storm is the kernel's own
 * part of it. On an emulated machine a shell needs five times as long.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count, first, last, i;

	if (argc != 4) {
		fputs("usage: forker COUNT FIRST LAST\n", stderr);
		return 2;
	}
	count = atol(argv[1]);
	first = atol(argv[2]);
	last = atol(argv[3]);
	for (i = 0; !count || i < count; i++) {
		pid_t child = fork();

		if (child < 0) {
			perror("forker: fork");
			return 1;
		}
		if (!child)
			_exit(0);
		if (child < first || child > last)
			printf("%d\n", child);
		if (waitpid(child, NULL, 0) != child) {
			perror("forker: wait");
			return 1;
		}
	}
	return 0;
}
