#include "jobs/plan.h"

#include "base/hash.h"
#include "jobs/digest.h"
#include "jobs/plan_inner.h"
#include "jobs/plan_time.h"
#include "jobs/spec_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- small questions -------------------------------------------------------------------------- */

int64_t qy_plan_segment_of(const qy_plan_t *plan, int64_t block)
{
    int64_t segment = 0;
    while (segment + 1 < plan->n_segments && plan->segment_start[segment + 1] <= block)
        segment++;
    return segment;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Arithmetic that is worth a task of its own: about as long as it takes a GPU's task to begin and
 * to load all blocks, minutes of a CPU. An evaluation has a task per range, text and variant. */
static const double capture_range_flops = 2e13, evaluate_range_flops = 1e14;

/* n windows of a walk through all blocks in ranges of at least range_flops, at least `fewest` of
 * them, at most `most`, never empty. */
static int64_t ranges_by_work(const qy_plan_t *plan, int64_t n, int64_t length, double range_flops,
                              int64_t fewest, int64_t most)
{
    double flops = (double)plan->arch.n_blocks *
                   qy_block_flops(&plan->arch, (double)(n * length), (double)length);
    double wanted = fmin(fmax(ceil(flops / range_flops), (double)fewest), (double)most);
    return n < 1 ? 1 : least((int64_t)wanted, n);
}

int64_t qy_plan_evaluate_ranges(const qy_plan_t *plan, int64_t n_windows, int64_t length)
{
    return ranges_by_work(plan, n_windows, length, evaluate_range_flops, QY_LEAST_EVALUATE_RANGES,
                          QY_EVALUATE_RANGES);
}

int64_t qy_plan_norm_ranges(const qy_plan_t *plan)
{
    const qy_spec_t *spec = &plan->spec;
    if (spec->quantize.method != QY_METHOD_QLLM || !spec->qllm.final_norm || plan->qllm.steps == 0)
        return 0;
    return qy_plan_evaluate_ranges(plan, spec->calibration.samples,
                                   spec->calibration.sequence_length);
}

static int64_t capture_ranges(const qy_plan_t *plan, int64_t n_samples, int64_t length)
{
    if (n_samples < 1)
        return 0;
    return ranges_by_work(plan, n_samples, length, capture_range_flops, QY_LEAST_CAPTURE_RANGES,
                          QY_CAPTURE_RANGES);
}

void qy_plan_range(int64_t n, int64_t n_ranges, int64_t r, int64_t *first, int64_t *count)
{
    *first = *count = 0;
    if (r < 0 || r >= n_ranges)
        return;
    *first = r * n / n_ranges;
    *count = (r + 1) * n / n_ranges - *first;
}

/* --- making ----------------------------------------------------------------------------------- */

qy_status_t qy_plan_new(qy_plan_t **out, const qy_spec_t *spec, const qy_arch_t *arch,
                        qy_error_t *err)
{
    qy_plan_t *plan = calloc(1, sizeof *plan);
    if (!plan)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    memcpy(&plan->spec, spec, sizeof *spec);
    plan->arch = *arch;
    bool whole_rows = spec->quantize.weights.group_size < 0 ||
                      spec->quantize.method == QY_METHOD_RPTQ; /* its groups are clusters */
    plan->group = whole_rows ? 0 : spec->quantize.weights.group_size;
    *out = plan;
    return QY_OK;
}

void qy_plan_destroy(qy_plan_t **plan)
{
    if (*plan)
        free((*plan)->canonical);
    free(*plan);
    *plan = NULL;
}

void qy_plan_derive(qy_plan_t *plan, int64_t n_segments, int64_t n_workers)
{
    const qy_spec_t *spec = &plan->spec;
    plan->n_segments = n_segments;
    plan->n_workers = n_workers;
    for (int64_t k = 0; k <= n_segments; k++)
        plan->segment_start[k] = k * plan->arch.n_blocks / n_segments;
    if (qy_spec_calibrates(spec))
        plan->n_samples = spec->calibration.samples + spec->calibration.validation_samples;
    plan->n_ranges = n_segments > 1
                         ? capture_ranges(plan, plan->n_samples, spec->calibration.sequence_length)
                         : 0;
    if (spec->e2e_qp.present) {
        plan->e2e_samples = spec->e2e_qp.samples ? spec->e2e_qp.samples : spec->calibration.samples;
        plan->e2e_length = spec->e2e_qp.sequence_length ? spec->e2e_qp.sequence_length
                                                        : spec->calibration.sequence_length;
        if (spec->e2e_qp.loss == QY_LOSS_DISTILL)
            plan->n_e2e_ranges = capture_ranges(plan, plan->e2e_samples, plan->e2e_length);
    }
    qy_plan_resolve_rates(plan);
    qy_plan_size(plan);
}

/* --- the hash --------------------------------------------------------------------------------- */

/* The spec as it is hashed: what follows other keys is filled in. */
static qy_status_t resolved_spec(qy_spec_t **out, const qy_plan_t *plan, qy_error_t *err)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    memcpy(spec, &plan->spec, sizeof *spec);
    spec->quantize.segments = plan->n_segments;
    spec->e2e_qp.samples = plan->e2e_samples;
    spec->e2e_qp.sequence_length = plan->e2e_length;
    if (!spec->e2e_qp.text[0])
        memcpy(spec->e2e_qp.text, spec->calibration.text, sizeof spec->e2e_qp.text);
    *out = spec;
    return QY_OK;
}

qy_status_t qy_plan_seal(qy_plan_t *plan, qy_digest_fn digest_of, void *context, qy_error_t *err)
{
    qy_spec_t *spec = NULL;
    char *canonical = NULL;
    QY_TRY(resolved_spec(&spec, plan, err));
    qy_status_t status = qy_spec_canonical(spec, digest_of, context, &canonical, err);
    char calibration[65] = "", e2e[65] = "";
    if (status == QY_OK && spec->e2e_qp.present) {
        if (spec->calibration.text[0])
            status =
                digest_of(context, "calibration.text", spec->calibration.text, calibration, err);
        if (status == QY_OK)
            status = digest_of(context, "e2e_qp.text", spec->e2e_qp.text, e2e, err);
    }
    free(spec);
    qy_sha256_t *h = NULL;
    if (status == QY_OK)
        status = qy_sha256_create(&h, err);
    if (status != QY_OK) {
        free(canonical);
        return status;
    }
    qy_sha256_add(h, canonical, strlen(canonical));
    qy_sha256_finish(&h, plan->hash);
    free(plan->canonical);
    plan->canonical = canonical;
    plan->e2e_own_text = strcmp(calibration, e2e) != 0;
    return QY_OK;
}

/* Digests of the files that a spec names, each file read once. */
enum { MAX_FILES = QY_MAX_EVALUATE + 3 };

typedef struct {
    const qy_model_t *model;
    int n;
    struct {
        char path[QY_PATH_MAX], hex[65];
    } known[MAX_FILES];
} digests_t;

static qy_status_t digest_of_file(void *context, const char *key, const char *path, char hex[65],
                                  qy_error_t *err)
{
    digests_t *digests = context;
    for (int i = 0; i < digests->n; i++)
        if (strcmp(digests->known[i].path, path) == 0) {
            memcpy(hex, digests->known[i].hex, 65);
            return QY_OK;
        }
    QY_TRY(strcmp(key, "model") == 0 ? qy_digest_model(digests->model, hex, err)
                                     : qy_sha256_file(path, hex, err));
    if (digests->n < MAX_FILES) {
        memcpy(digests->known[digests->n].hex, hex, 65);
        QY_TRY(qy_path(digests->known[digests->n].path, err, "%s", path));
        digests->n++;
    }
    return QY_OK;
}

static qy_status_t digest_evaluations(qy_plan_t *plan, digests_t *digests, qy_error_t *err)
{
    char tokenizer[QY_SHA256_HEX], text[QY_SHA256_HEX];
    QY_TRY(qy_digest_tokenizer(plan->spec.model, tokenizer, err));
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        const qy_evaluate_spec_t *e = &plan->spec.evaluate[i];
        QY_TRY(digest_of_file(digests, "evaluate", e->task[0] ? e->task : e->text, text, err));
        QY_TRY(
            qy_digest_evaluation(text, tokenizer, e->sequence_length, plan->eval_digest[i], err));
    }
    return QY_OK;
}

static qy_status_t make(qy_plan_t *plan, const qy_model_t *model, int64_t n_workers,
                        qy_error_t *err)
{
    QY_TRY(qy_plan_check(plan, model, err));
    int64_t n_blocks = plan->arch.n_blocks, n_segments = plan->spec.quantize.segments;
    if (n_segments == 0)
        n_segments = least(QY_MAX_SEGMENTS, least(n_blocks, n_workers));
    qy_plan_derive(plan, n_segments, n_workers);
    QY_TRY(qy_plan_check_fit(plan, err));
    digests_t *digests = calloc(1, sizeof *digests);
    if (!digests)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    digests->model = model;
    qy_status_t status = qy_plan_seal(plan, digest_of_file, digests, err);
    if (status == QY_OK)
        status = digest_evaluations(plan, digests, err);
    free(digests);
    return status;
}

qy_status_t qy_plan_make(qy_plan_t **out, const qy_spec_t *spec, int64_t n_workers, qy_error_t *err)
{
    if (n_workers < 1)
        return qy_fail(err, QY_ERR_ARG, "workers: %lld; at least 1", (long long)n_workers);
    qy_model_t *model = NULL;
    qy_plan_t *plan = NULL;
    QY_TRY(qy_model_open(&model, spec->model, err));
    qy_status_t status = qy_plan_new(&plan, spec, &model->arch, err);
    if (status == QY_OK)
        status = make(plan, model, n_workers, err);
    qy_model_close(&model);
    if (status == QY_OK)
        *out = plan;
    else
        qy_plan_destroy(&plan);
    return status;
}
