#include "jobs/served.h"

#include <inttypes.h>

#include "model/program.h"

static const double half_bytes = 2.0, group_bytes = 4.0, byte_bits = 8.0;

/* The slot that a site begins at, by its columns. */
static int64_t site_cols(const qy_program_t *program, qy_site_t site)
{
    static const qy_slot_t slots[QY_N_SITES] = {[QY_SITE_ATTENTION_IN] = QY_SLOT_N1,
                                                [QY_SITE_O_IN] = QY_SLOT_A,
                                                [QY_SITE_MLP_IN] = QY_SLOT_N2,
                                                [QY_SITE_DOWN_IN] = QY_SLOT_M,
                                                [QY_SITE_Q] = QY_SLOT_Q,
                                                [QY_SITE_K] = QY_SLOT_K,
                                                [QY_SITE_V] = QY_SLOT_V};
    return qy_program_cols(program, slots[site]);
}

qy_served_t qy_served(const qy_arch_t *arch, const qy_quant_form_t *form, int64_t batch,
                      int64_t length)
{
    double tokens = (double)batch * (double)length;
    qy_program_t program;
    qy_program_build(&program, arch, NULL);
    qy_served_t out = {.weights = half_bytes * (double)qy_arch_parameters(arch),
                       .activations = half_bytes * tokens * (double)arch->hidden};
    for (int i = 0; i < QY_N_LINEARS && form; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (!d->present)
            continue;
        double blocks = (double)arch->n_blocks, out_rows = (double)d->out;
        out.weights += blocks * out_rows *
                       ((double)d->in * ((double)form->bits / byte_bits - half_bytes) +
                        (double)qy_quant_linear_groups(form, arch, i) * group_bytes);
    }
    double kv_bits = form ? qy_quant_site_bits(form, QY_SITE_K) : QY_BITS_NONE;
    out.kv_cache = 2.0 * (double)arch->n_blocks * (double)(arch->n_kv_heads * arch->head_dim) *
                   tokens * kv_bits / byte_bits;
    for (int i = 0; i < QY_N_SITES; i++) {
        double bits = form ? qy_quant_site_bits(form, (qy_site_t)i) : QY_BITS_NONE;
        out.activations += tokens * (double)site_cols(&program, (qy_site_t)i) * bits / byte_bits;
    }
    return out;
}

static void print_row(FILE *file, const char *name, double whole, double quantized)
{
    static const double giga = 1e9;
    fprintf(file, "           %-12s %10.2f GB %10.2f GB, %.2f GB less\n", name, whole / giga,
            quantized / giga, (whole - quantized) / giga);
}

void qy_served_print(const qy_arch_t *arch, const qy_quant_form_t *form, int64_t batch,
                     int64_t length, FILE *file)
{
    qy_served_t whole = qy_served(arch, NULL, batch, length);
    qy_served_t quantized = qy_served(arch, form, batch, length);
    fprintf(file,
            "served     batch %" PRId64 ", length %" PRId64
            ": fp16, quantized; activations are one block's\n",
            batch, length);
    print_row(file, "weights", whole.weights, quantized.weights);
    print_row(file, "KV cache", whole.kv_cache, quantized.kv_cache);
    print_row(file, "activations", whole.activations, quantized.activations);
    print_row(file, "all", whole.weights + whole.kv_cache + whole.activations,
              quantized.weights + quantized.kv_cache + quantized.activations);
}
