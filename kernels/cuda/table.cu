#include "kernels/cuda/table.cuh"

/* In the order of qy_ops_t, which is ops.def's own. */
const qy_ops_t qy_cuda_ops = {
#define QY_OP(name, args) qy_cuda_##name,
#include "kernels/ops.def"
#undef QY_OP
};
