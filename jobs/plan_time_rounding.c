/* How long GPTQ and RPTQ take. */
#include "jobs/plan_time.h"
#include "model/qmodel.h"

#include <math.h>
#include <string.h>

/* A GPU's f32 outside its tensor cores beside halves in them: 67 to 989 TFLOP/s of an H100
 * (NVIDIA's data sheet). The CPU computes in f32 everywhere. */
static const double gpu_single = 16;

/* RPTQ looks at so many tokens one by one, on the host. */
static const double sketch_tokens = 8192;

/* Second moments of what layers read, once for each such site; their factors, of a triangle and its
 * inverse; each column's error spread over the rest of its row. */
static double linear_s(const qy_plan_t *plan, const qy_speed_t *speed, double tokens)
{
    double moments = 0, single = 0, slower = strcmp(speed->kind, "cuda") == 0 ? gpu_single : 1;
    unsigned seen = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &plan->arch.linear[i];
        double in = (double)d->in;
        unsigned site = 1u << qy_linear_site(i);
        if (!d->present)
            continue;
        single += in * in * (double)d->out;
        if (seen & site)
            continue;
        seen |= site;
        moments += 2 * tokens * in * in;
        single += in * in * in * 2 / 3;
    }
    return (moments + slower * single) / speed->forward;
}

static double sketch_s(const qy_plan_t *plan, const qy_speed_t *speed, double tokens)
{
    const qy_spec_t *spec = &plan->spec;
    double channels = 0;
    if (spec->rptq.compat ||
        (spec->quantize.activation_bits == QY_BITS_NONE && spec->quantize.kv_bits == QY_BITS_NONE))
        return 0;
    for (int i = 0; i < QY_N_SITES; i++)
        channels += (double)qy_site_channels(&plan->arch, (qy_site_t)i);
    return fmin(tokens, sketch_tokens) * channels / speed->freeze;
}

double qy_plan_rounding_s(const qy_plan_t *plan, const qy_speed_t *speed)
{
    const qy_spec_t *spec = &plan->spec;
    bool rptq = spec->quantize.method == QY_METHOD_RPTQ;
    double length = (double)spec->calibration.sequence_length;
    double tokens = (double)spec->calibration.samples * length;
    /* GPTQ: for the moments, and for the error before and after; RPTQ: ranges, moments, error. */
    double walks = rptq ? 3 : spec->gptq.sequential ? 4 + 2 : 1 + 2;
    double sum = walks * qy_block_flops(&plan->arch, tokens, length) / speed->forward;
    if (qy_spec_has_gptq(spec))
        sum += linear_s(plan, speed, tokens);
    if (rptq) /* and its finished weights are made on the host */
        sum += sketch_s(plan, speed, tokens) +
               (double)qy_arch_block_weights(&plan->arch) / speed->freeze;
    return sum;
}
