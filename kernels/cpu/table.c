#include "kernels/cpu/table.h"

const qy_ops_t qy_cpu_ops = {
#define QY_OP(name, args) .name = qy_cpu_##name,
#include "kernels/ops.def"
#undef QY_OP
};
