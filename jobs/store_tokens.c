/* Token files: made from the texts once, read by every task. */
#include "jobs/store_inner.h"
#include "jobs/spec_table.h"
#include "model/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PREFIX = 16 };

/* --- files ------------------------------------------------------------------------------------ */

/* What the file of an evaluation text must carry: its digest is not in the plan hash. NULL: another
 * set. */
static const char *digest_of(const qy_plan_t *plan, const char *name)
{
    for (int i = 0; i < plan->spec.n_evaluate; i++)
        if (strcmp(plan->spec.evaluate[i].name, name) == 0)
            return plan->eval_digest[i];
    return NULL;
}

qy_status_t qy_store_open_set(qy_h5_t **out, const qy_plan_t *plan, const char *name,
                              const char *kind, qy_error_t *err)
{
    char path[QY_PATH_MAX], found[65];
    const char *digest = digest_of(plan, name);
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_tokens(path, plan, name, err));
    QY_TRY(qy_store_open(&file, path, plan, kind, err));
    qy_status_t status = QY_OK;
    if (digest)
        status = qy_h5_get_string(file, "digest", found, sizeof found, err);
    if (digest && status == QY_OK && strcmp(found, digest) != 0)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: of another text than the plan's", path);
    if (status == QY_OK)
        *out = file;
    else
        qy_h5_close(&file);
    return status;
}

qy_status_t qy_store_create_set(qy_h5_t **out, const qy_plan_t *plan, const char *name,
                                const char *kind, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    const char *digest = digest_of(plan, name);
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_tokens(path, plan, name, err));
    QY_TRY(qy_h5_create(&file, path, err));
    qy_status_t status = qy_store_mark(file, plan, kind, err);
    if (status == QY_OK && digest)
        status = qy_h5_set_string(file, "digest", digest, err);
    if (status == QY_OK)
        *out = file;
    else
        qy_h5_close(&file);
    return status;
}

bool qy_store_has_set(const qy_plan_t *plan, const char *name, const char *kind)
{
    qy_h5_t *file = NULL;
    bool has = qy_store_open_set(&file, plan, name, kind, NULL) == QY_OK;
    qy_h5_close(&file);
    return has;
}

static qy_status_t check_ids(const int32_t *ids, int64_t n, int64_t vocab, const char *where,
                             qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return qy_fail(err, QY_ERR_FORMAT,
                           "%s: token %" PRId32 ", but the model's vocabulary has %" PRId64, where,
                           ids[i], vocab);
    return QY_OK;
}

static qy_status_t write_tokens(const qy_plan_t *plan, const char *name, int32_t *ids, int64_t n,
                                int64_t length, qy_error_t *err)
{
    const qy_tensor_t t = qy_tensor_2d(ids, QY_I32, n, length);
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_create_set(&file, plan, name, "tokens", err));
    qy_status_t status = qy_h5_write(file, "ids", &t, err);
    if (status == QY_OK)
        status = qy_h5_commit(&file, err);
    qy_h5_close(&file);
    return status;
}

static qy_status_t read_ids(qy_h5_t *file, const qy_plan_t *plan, int32_t **out, qy_tensor_t *t,
                            qy_error_t *err)
{
    const char *path = qy_h5_path(file);
    QY_TRY(qy_h5_info(file, "ids", t, err));
    if (t->dtype != QY_I32 || t->n_dims != 2 || t->shape[0] < 1 || t->shape[1] < 1)
        return qy_fail(err, QY_ERR_FORMAT, "%s: ids is no table of token ids", path);
    int32_t *ids = malloc(qy_tensor_bytes(t));
    if (!ids)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its %zu bytes", path,
                       qy_tensor_bytes(t));
    t->data = ids;
    qy_status_t status = qy_h5_read(file, "ids", t, err);
    if (status == QY_OK)
        status = check_ids(ids, qy_tensor_count(t), plan->arch.vocab, path, err);
    if (status == QY_OK)
        *out = ids;
    else
        free(ids);
    return status;
}

qy_status_t qy_store_read_tokens(int32_t **out, int64_t *n, int64_t *length, const qy_plan_t *plan,
                                 const char *name, qy_error_t *err)
{
    qy_h5_t *file = NULL;
    qy_tensor_t t;
    char path[QY_PATH_MAX];
    QY_TRY(qy_store_tokens(path, plan, name, err));
    qy_status_t status = qy_store_open_set(&file, plan, name, "tokens", err);
    if (status == QY_OK)
        status = read_ids(file, plan, out, &t, err);
    qy_h5_close(&file);
    status = qy_store_set_aside(path, status, err);
    if (status == QY_OK) {
        *n = t.shape[0];
        *length = t.shape[1];
    }
    return status;
}

/* --- making ----------------------------------------------------------------------------------- */

/* The text at hand is kept: calibration and e2e mostly share one. */
typedef struct {
    const qy_plan_t *plan;
    qy_tokenizer_t *tokenizer;
    qy_text_t text;
    char path[QY_PATH_MAX]; /* of text; empty: none is held */
    qy_text_mode_t mode;
} maker_t;

static void drop_text(maker_t *maker)
{
    if (maker->path[0])
        qy_text_free(&maker->text);
    maker->path[0] = '\0';
}

static qy_status_t need_tokenizer(maker_t *maker, qy_error_t *err)
{
    if (maker->tokenizer)
        return QY_OK;
    return qy_tokenizer_open(&maker->tokenizer, maker->plan->spec.model, err);
}

static qy_status_t take_text(maker_t *maker, const char *path, qy_text_mode_t mode, qy_error_t *err)
{
    if (strcmp(maker->path, path) == 0 && maker->mode == mode)
        return QY_OK;
    drop_text(maker);
    size_t n = strlen(path);
    bool ids = n > 4 && strcmp(path + n - 4, ".npy") == 0;
    if (!ids)
        QY_TRY(need_tokenizer(maker, err));
    QY_TRY(qy_text_read(&maker->text, path, maker->tokenizer, mode, err));
    maker->mode = mode;
    qy_status_t status = qy_path(maker->path, err, "%s", path);
    if (status == QY_OK)
        status = check_ids(maker->text.ids, maker->text.n, maker->plan->arch.vocab, path, err);
    if (status != QY_OK) {
        qy_text_free(&maker->text);
        maker->path[0] = '\0';
    }
    return status;
}

/* n windows of the text at hand, copied to out. */
static qy_status_t copy_windows(const maker_t *maker, int64_t n, int64_t length, bool held_out,
                                qy_phase_t phase, int32_t *out, qy_error_t *err)
{
    const qy_spec_t *spec = &maker->plan->spec;
    int32_t *windows = NULL;
    qy_status_t status =
        qy_text_windows(&windows, &maker->text, (qy_sampling_t)spec->calibration.sampling, n,
                        length, held_out, (uint32_t)spec->seed, phase, err);
    if (status != QY_OK) {
        (void)qy_fail_in(err, "%s", maker->path);
        return status;
    }
    memcpy(out, windows, (size_t)(n * length) * sizeof *out);
    free(windows);
    return QY_OK;
}

/* Windows of a set: n_train of the training part, n_held of the held-out part after them. */
static qy_status_t take_windows(maker_t *maker, const char *path, int64_t n_train, int64_t n_held,
                                int64_t length, qy_phase_t phase, int32_t **out, qy_error_t *err)
{
    bool stream = maker->plan->spec.calibration.sampling == QY_SAMPLING_STREAM;
    QY_TRY(take_text(maker, path, stream ? QY_TEXT_JOIN : QY_TEXT_DOCUMENTS, err));
    int64_t rows = maker->text.row_length ? maker->text.n / maker->text.row_length : INT64_MAX;
    if (rows < n_train + n_held)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %" PRId64 " rows, the job takes %" PRId64, path,
                       rows, n_train + n_held);
    int32_t *ids = malloc((size_t)((n_train + n_held) * length) * sizeof *ids);
    if (!ids)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its windows", path);
    qy_status_t status = copy_windows(maker, n_train, length, false, phase, ids, err);
    if (status == QY_OK && n_held > 0)
        status = copy_windows(maker, n_held, length, true, QY_PHASE_VALIDATION,
                              ids + n_train * length, err);
    if (status == QY_OK)
        *out = ids;
    else
        free(ids);
    return status;
}

static qy_status_t make_calibration(maker_t *maker, qy_error_t *err)
{
    const qy_plan_t *plan = maker->plan;
    const qy_spec_t *spec = &plan->spec;
    int64_t length = spec->calibration.sequence_length;
    int32_t *ids = NULL;
    if (plan->n_samples == 0 || qy_store_has_set(plan, "calibration", "tokens"))
        return QY_OK;
    QY_TRY(take_windows(maker, spec->calibration.text, spec->calibration.samples,
                        spec->calibration.validation_samples, length, QY_PHASE_CALIBRATION, &ids,
                        err));
    qy_status_t status = write_tokens(plan, "calibration", ids, plan->n_samples, length, err);
    free(ids);
    return status;
}

static qy_status_t make_e2e(maker_t *maker, qy_error_t *err)
{
    const qy_plan_t *plan = maker->plan;
    const qy_spec_t *spec = &plan->spec;
    int32_t *ids = NULL;
    if (!spec->e2e_qp.present || qy_store_has_set(plan, "e2e", "tokens"))
        return QY_OK;
    /* The same text by content, not by path: paths are not in the plan hash. */
    qy_phase_t phase = plan->e2e_own_text ? QY_PHASE_E2E : QY_PHASE_CALIBRATION;
    const char *path = spec->e2e_qp.text[0] ? spec->e2e_qp.text : spec->calibration.text;
    QY_TRY(take_windows(maker, path, plan->e2e_samples, 0, plan->e2e_length, phase, &ids, err));
    qy_status_t status = write_tokens(plan, "e2e", ids, plan->e2e_samples, plan->e2e_length, err);
    free(ids);
    return status;
}

/* The whole text after what the tokenizer puts before one, cut into windows; the rest is dropped.
 */
static qy_status_t make_evaluation(maker_t *maker, const qy_evaluate_spec_t *e, qy_error_t *err)
{
    int64_t length = e->sequence_length;
    int32_t prefix[MAX_PREFIX];
    if (qy_store_has_set(maker->plan, e->name, "tokens"))
        return QY_OK;
    QY_TRY(take_text(maker, e->text, QY_TEXT_JOIN, err));
    const qy_text_t *text = &maker->text;
    if (text->row_length && text->row_length != length)
        return qy_fail(err, QY_ERR_FORMAT, "%s: rows of %" PRId64 " tokens, windows of %" PRId64,
                       e->text, text->row_length, length);
    int64_t n_prefix =
        text->row_length ? 0 : qy_tokenizer_prefix(maker->tokenizer, prefix, MAX_PREFIX);
    QY_TRY(check_ids(prefix, n_prefix, maker->plan->arch.vocab, e->text, err));
    int64_t n = (n_prefix + text->n) / length;
    if (n < 1)
        return qy_fail(err, QY_ERR_FORMAT,
                       "evaluate %s: %s: %" PRId64 " tokens are less than one window of %" PRId64,
                       e->name, e->text, n_prefix + text->n, length);
    int32_t *ids = malloc((size_t)(n * length) * sizeof *ids);
    if (!ids)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its windows", e->text);
    if (n_prefix > n * length) /* the prefix alone may be longer than the windows */
        n_prefix = n * length;
    memcpy(ids, prefix, (size_t)n_prefix * sizeof *ids);
    memcpy(ids + n_prefix, text->ids, (size_t)(n * length - n_prefix) * sizeof *ids);
    qy_status_t status = write_tokens(maker->plan, e->name, ids, n, length, err);
    free(ids);
    return status;
}

static qy_status_t make_task(maker_t *maker, const qy_evaluate_spec_t *e, qy_error_t *err)
{
    if (qy_store_has_set(maker->plan, e->name, "choices"))
        return QY_OK;
    QY_TRY(need_tokenizer(maker, err));
    return qy_store_make_choices(maker->plan, e, maker->tokenizer, err);
}

qy_status_t qy_store_make_tokens(const qy_plan_t *plan, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    QY_TRY(qy_path(folder, err, "%s/tokens", plan->spec.run_dir));
    QY_TRY(qy_make_dirs(folder, err));
    maker_t *maker = calloc(1, sizeof *maker);
    if (!maker)
        return qy_fail(err, QY_ERR_MEMORY, "tokens: out of memory");
    maker->plan = plan;
    qy_status_t status = make_calibration(maker, err);
    if (status == QY_OK)
        status = make_e2e(maker, err);
    for (int i = 0; i < plan->spec.n_evaluate && status == QY_OK; i++) {
        const qy_evaluate_spec_t *e = &plan->spec.evaluate[i];
        status = e->task[0] ? make_task(maker, e, err) : make_evaluation(maker, e, err);
    }
    drop_text(maker);
    qy_tokenizer_close(&maker->tokenizer);
    free(maker);
    return status;
}
