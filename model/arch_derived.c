/* What follows from an arch: rope tables and counts. */
#include <math.h>

#include "model/arch.h"

/* Source: transformers 5.17 modeling_rope_utils.py, _compute_llama3_parameters. */
static double llama3_frequency(const qy_arch_t *arch, double f)
{
    double original = (double)arch->rope_original_positions;
    double wavelength = 2 * M_PI / f;
    if (wavelength < original / arch->rope_high_freq)
        return f;
    if (wavelength > original / arch->rope_low_freq)
        return f / arch->rope_factor;
    double smooth = (original / wavelength - arch->rope_low_freq) /
                    (arch->rope_high_freq - arch->rope_low_freq);
    return (1 - smooth) * f / arch->rope_factor + smooth * f;
}

void qy_arch_rope_frequencies(const qy_arch_t *arch, double *f)
{
    if (arch->rope_kind == QY_ROPE_NONE)
        return;
    for (int64_t i = 0; i < arch->head_dim / 2; i++) {
        f[i] = pow(arch->rope_theta, -2 * (double)i / (double)arch->head_dim);
        if (arch->rope_kind == QY_ROPE_LINEAR)
            f[i] /= arch->rope_factor;
        else if (arch->rope_kind == QY_ROPE_LLAMA3)
            f[i] = llama3_frequency(arch, f[i]);
    }
}

void qy_arch_rope_tables(const qy_arch_t *arch, int64_t positions, float *cosine, float *sine)
{
    double f[QY_HEAD_DIM_MAX / 2];
    int64_t half = arch->head_dim / 2;
    qy_arch_rope_frequencies(arch, f);
    if (arch->rope_kind == QY_ROPE_NONE)
        return;
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)p * f[i];
            cosine[p * half + i] = (float)cos(angle);
            sine[p * half + i] = (float)sin(angle);
        }
}

int64_t qy_arch_block_weights(const qy_arch_t *arch)
{
    int64_t n = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        n += arch->linear[i].out * arch->linear[i].in;
    return n;
}

static int64_t norm_parameters(const qy_norm_desc_t *norm)
{
    return norm->size * (norm->bias ? 2 : 1);
}

int64_t qy_arch_parameters(const qy_arch_t *arch)
{
    int64_t block = qy_arch_block_weights(arch);
    for (int i = 0; i < QY_N_LINEARS; i++)
        block += arch->linear[i].bias ? arch->linear[i].out : 0;
    for (int i = 0; i < QY_N_NORMS; i++)
        block += norm_parameters(&arch->norm[i]);
    int64_t rows = arch->vocab * (arch->tied_head ? 1 : 2);
    if (arch->learned_positions)
        rows += arch->max_positions + arch->position_offset;
    return arch->n_blocks * block + rows * arch->hidden + norm_parameters(&arch->final_norm);
}
