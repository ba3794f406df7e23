// What verbs and librdmacm give out, each with its end.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>

namespace gestalt {

// To be destroyed in this order: queue pair, id, event channel; regions, domain, context. An id's
// own queue pair is librdmacm's to destroy.
struct RdmaDeleter {
  void operator()(rdma_event_channel* channel) const { ::rdma_destroy_event_channel(channel); }
  void operator()(rdma_cm_id* id) const { (void)::rdma_destroy_id(id); }
  void operator()(ibv_context* context) const { (void)::ibv_close_device(context); }
  void operator()(ibv_pd* pd) const { (void)::ibv_dealloc_pd(pd); }
  void operator()(ibv_mr* mr) const { (void)::ibv_dereg_mr(mr); }
  void operator()(ibv_cq* cq) const { (void)::ibv_destroy_cq(cq); }
  void operator()(ibv_comp_channel* channel) const { (void)::ibv_destroy_comp_channel(channel); }
  void operator()(ibv_qp* qp) const { (void)::ibv_destroy_qp(qp); }
};
template <class T>
using RdmaOwned = std::unique_ptr<T, RdmaDeleter>;

}  // namespace gestalt
