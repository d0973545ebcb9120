#include "worker/e2e_qp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "kernels/loss.h"
#include "worker/device_record.h"
#include "worker/e2e_stage.h"
#include "worker/memory.h"
#include "worker/pipe_peers.h"
#include "worker/watch.h"

/* Largest norm of all gradients together; larger ones are scaled down to it. */
static const float max_norm = 0.3f;

typedef struct {
    const qy_plan_t *plan;
    const qy_hooks_t *hooks;
    qy_pipe_t *pipe; /* NULL: one rank */
    int rank, n_ranks, n_stages;
    int64_t *first; /* blocks of each rank: [first[r], first[r + 1]) */
    qy_device_t *dev;
    qy_e2e_stage_t stage;
    qy_watch_t *watch;
    int32_t *tokens;                         /* (samples, length) */
    int32_t *batch;                          /* tokens of one micro-batch */
    int64_t *order;                          /* of the epoch at hand */
    int64_t epoch;                           /* whose order it is; −1: none yet */
    float *row_loss;                         /* (micro-batch × length) */
    void *teacher;                           /* host: one sample's final states */
    float *mine, *all;                       /* numbers of this rank; of all, on rank 0 */
    int *counts;                             /* how many each rank gathers */
    double loss_sum;                         /* of the batch, on the last stage */
    double began, last_save, save_s, busy_s; /* save_s: what the last save took */
} e2e_t;

/* What rank 0 decides after each batch and tells all: a clip of 0 skips the update. */
enum { TELL_CLIP, TELL_SCALE, TELL_LOSS, TELL_SAVE, TELL_STOP, N_TELL };
/* What a rank adds behind its blocks' sums: its share of the loss, and whether it was asked to
 * stop. */
enum { ADD_LOSS, ADD_STOP, N_ADD };

static qy_status_t set_order(e2e_t *e, int64_t epoch)
{
    int64_t n = e->plan->e2e_samples;
    if (epoch == e->epoch)
        return QY_OK;
    for (int64_t i = 0; i < n; i++)
        e->order[i] = i;
    if (e->plan->spec.e2e_qp.shuffle)
        qy_random_permutation(e->order, n, (uint32_t)e->plan->spec.seed, QY_PHASE_SHUFFLE_E2E,
                              (uint64_t)epoch);
    e->epoch = epoch;
    return QY_OK;
}

/* The teacher's final states of the given samples, from the capture files into the stage. */
static qy_status_t load_teacher(e2e_t *e, const int64_t *samples, int64_t n, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    size_t bytes =
        (size_t)(plan->e2e_length * plan->arch.hidden) * qy_dtype_bytes(e->stage.dev->compute);
    for (int64_t i = 0; i < n; i++) {
        int64_t range = 0, first, count;
        for (;; range++) {
            qy_plan_range(plan->e2e_samples, plan->n_e2e_ranges, range, &first, &count);
            if (samples[i] < first + count)
                break;
        }
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        QY_TRY(qy_store_teacher(path, plan, range, err));
        qy_status_t status = qy_store_open(&file, path, plan, "teacher", err);
        if (status == QY_OK)
            status = qy_h5_read_rows(file, "x", samples[i] - first, 1, e->teacher, err);
        qy_h5_close(&file);
        QY_TRY(qy_store_set_aside(path, status, err));
        QY_TRY(qy_device_upload(e->stage.dev, (char *)e->stage.teacher.data + (size_t)i * bytes,
                                e->teacher, bytes, err));
        QY_TRY(qy_device_wait(e->stage.dev, err));
    }
    return QY_OK;
}

/* Positions of a batch that the loss is averaged over. */
static double positions(const qy_plan_t *plan)
{
    int64_t t = plan->e2e_length - (plan->spec.e2e_qp.loss == QY_LOSS_NEXT_TOKEN);
    return (double)(t * plan->spec.e2e_qp.batch_size);
}

/*
 * Factor of the loss, and with it of all gradients, before the first update: in f16, whose smallest
 * number is 6e-8, the share of one position in a batch's mean would be nothing. A power of two, so
 * that nothing else is rounded, which gives a position the weight 8 to 16, as torch.amp's first
 * scale does with a batch of 4096.
 */
static float first_scale(const e2e_t *e)
{
    int exponent;
    if (e->dev->compute != QY_F16)
        return 1;
    frexp(positions(e->plan), &exponent);
    return ldexpf(8, exponent);
}

/* Loss of n sequences at the head and its gradient into the stage's dy; adds the losses to *sum. */
static qy_status_t head(e2e_t *e, const int64_t *samples, const int32_t *tokens, int64_t n,
                        double *sum, qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    int64_t length = e->plan->e2e_length, n_rows = n * length;
    float scale = (float)((double)s->scale / positions(e->plan));
    qy_tensor_t y = qy_tensor_slice(&s->y, 0, n_rows), dy = qy_tensor_slice(&s->dy, 0, n_rows);
    if (e->plan->spec.e2e_qp.loss == QY_LOSS_DISTILL) {
        QY_TRY(load_teacher(e, samples, n, err));
        qy_tensor_t teacher = qy_tensor_slice(&s->teacher, 0, n_rows);
        QY_TRY(qy_head_distill(&s->outer, &s->head, &y, &teacher, scale, &dy, err));
    } else {
        QY_TRY(qy_head_next_token(&s->outer, &s->head, &y, tokens, n, length, scale, &dy, err));
    }
    QY_TRY(qy_device_download(s->dev, e->row_loss, s->head.loss.data,
                              (size_t)n_rows * sizeof(float), err));
    for (int64_t i = 0; i < n_rows; i++)
        *sum += (double)e->row_loss[i];
    return QY_OK;
}

/* Micro-batch m of the batch that starts at sample `at` of the order. */
typedef struct {
    int64_t m, n;
    const int64_t *samples;
} micro_t;

static micro_t micro_of(const e2e_t *e, int64_t at, int64_t m)
{
    int64_t size = e->plan->spec.e2e_qp.micro_batch_size, batch = e->plan->spec.e2e_qp.batch_size;
    int64_t left = batch - m * size;
    return (micro_t){m, left < size ? left : size, e->order + at + m * size};
}

static const int32_t *gather_tokens(e2e_t *e, const micro_t *micro)
{
    int64_t length = e->plan->e2e_length;
    for (int64_t i = 0; i < micro->n; i++)
        memcpy(e->batch + i * length, e->tokens + micro->samples[i] * length,
               (size_t)length * sizeof *e->batch);
    return e->batch;
}

static qy_status_t forward(e2e_t *e, micro_t micro, qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    qy_tensor_t x = qy_e2e_stage_input(s, micro.m, micro.n);
    qy_tensor_t y = qy_tensor_slice(&s->y, 0, micro.n * e->plan->e2e_length);
    if (s->has_embedding)
        QY_TRY(qy_embed(&s->outer, &s->ids, gather_tokens(e, &micro), micro.n, &x, err));
    else
        QY_TRY(e->pipe->receive(e->pipe, s->dev, e->rank - 1, &x, err));
    double began = qy_now_s();
    QY_TRY(qy_e2e_stage_forward(s, micro.m, micro.n, err));
    if (s->has_head)
        QY_TRY(head(e, micro.samples, gather_tokens(e, &micro), micro.n, &e->loss_sum, err));
    QY_TRY(qy_device_wait(s->dev, err));
    e->busy_s += qy_now_s() - began;
    return s->has_head ? QY_OK : e->pipe->send(e->pipe, s->dev, e->rank + 1, &y, err);
}

static qy_status_t backward(e2e_t *e, micro_t micro, qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    qy_tensor_t dy = qy_tensor_slice(&s->dy, 0, micro.n * e->plan->e2e_length);
    if (!s->has_head)
        QY_TRY(e->pipe->receive(e->pipe, s->dev, e->rank + 1, &dy, err));
    double began = qy_now_s();
    QY_TRY(qy_e2e_stage_backward(s, micro.m, micro.n, err));
    QY_TRY(qy_device_wait(s->dev, err));
    e->busy_s += qy_now_s() - began;
    return s->has_embedding ? QY_OK : e->pipe->send(e->pipe, s->dev, e->rank - 1, &dy, err);
}

static int64_t n_micro(const qy_plan_t *plan)
{
    int64_t size = plan->spec.e2e_qp.micro_batch_size;
    return (plan->spec.e2e_qp.batch_size + size - 1) / size;
}

/*
 * One batch by one-forward-one-backward: a rank goes ahead with forward passes until the last stage
 * has its first one, then alternates. Gradients are added in the order of micro-batches on every
 * rank.
 */
static qy_status_t run_batch(e2e_t *e, int64_t at, qy_error_t *err)
{
    int64_t n = n_micro(e->plan), done = 0;
    int64_t ahead = qy_e2e_slots(e->plan, e->n_stages, e->rank) - 1;
    e->loss_sum = 0;
    if (e->stage.n == 0)
        return QY_OK;
    for (int64_t m = 0; m < n; m++) {
        QY_TRY(forward(e, micro_of(e, at, m), err));
        if (m >= ahead)
            QY_TRY(backward(e, micro_of(e, at, done++), err));
    }
    while (done < n)
        QY_TRY(backward(e, micro_of(e, at, done++), err));
    return QY_OK;
}

/*
 * Scale that brings the global norm down to max_norm; the blocks' sums are added in block order.
 * Where a scaled loss is the cause that the norm is not finite, half the scale is for the next
 * batch, and there is no update.
 */
static qy_status_t clip_factor(const e2e_t *e, const float *sums, int64_t n, int64_t step,
                               float tell[N_TELL], qy_error_t *err)
{
    float total = 0, scale = e->stage.scale;
    for (int64_t i = 0; i < n; i++)
        total += sums[i];
    float norm = sqrtf(total) / scale;
    tell[TELL_SCALE] = scale;
    if (!isfinite(norm) && scale > 1) {
        tell[TELL_CLIP] = 0;
        tell[TELL_SCALE] = scale / 2;
        return QY_OK;
    }
    if (!isfinite(norm))
        return qy_fail(err, QY_ERR_NUMERIC, "e2e step %lld: the gradient's norm is %g",
                       (long long)step + 1, (double)norm);
    tell[TELL_CLIP] = norm > max_norm ? max_norm / (norm + 1e-6f) : 1.0f;
    return QY_OK;
}

/* Seconds between saves: as the job says, but at most a twentieth of the time goes into them,
 * however slow the disk; with 0 minutes every update is saved whatever it costs. */
static double save_interval(const e2e_t *e)
{
    double wanted = e->plan->spec.checkpoint.minutes * 60, affordable = 19 * e->save_s;
    return wanted > 0 && wanted < affordable ? affordable : wanted;
}

/* Rank 0's part of the meeting after a batch: from everybody's numbers to what all are told. */
static qy_status_t decide(e2e_t *e, int64_t step, float tell[N_TELL], qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    const float *at = e->all;
    float loss = 0, *sums = e->all; /* sums move together at the front, in block order */
    int64_t n = 0;
    tell[TELL_STOP] = 0;
    for (int r = 0; r < e->n_ranks; r++) {
        int64_t count = e->first[r + 1] - e->first[r];
        memmove(sums + n, at, (size_t)count * sizeof *sums);
        n += count;
        loss += at[count + ADD_LOSS];
        tell[TELL_STOP] += at[count + ADD_STOP];
        at += count + N_ADD;
    }
    tell[TELL_LOSS] = loss;
    if (!isfinite(loss))
        return qy_fail(err, QY_ERR_NUMERIC, "e2e step %lld of %lld: the loss is %g",
                       (long long)step + 1, (long long)plan->e2e.steps, (double)loss);
    QY_TRY(clip_factor(e, sums, n, step, tell, err));
    int due = qy_now_s() - e->last_save >= save_interval(e);
    tell[TELL_SAVE] = due || tell[TELL_STOP] > 0 || step + 1 == plan->e2e.steps;
    return QY_OK;
}

/* All ranks' numbers meet on rank 0, which tells everybody what follows. A failure there is told as
 * a clip that is not finite, so that all end together. */
static qy_status_t meet(e2e_t *e, int64_t step, float tell[N_TELL], qy_error_t *err)
{
    int64_t n = e->stage.n;
    qy_status_t status = QY_OK;
    if (n > 0)
        QY_TRY(qy_e2e_stage_norms(&e->stage, e->mine, err));
    e->mine[n + ADD_LOSS] = (float)(e->loss_sum / positions(e->plan));
    e->mine[n + ADD_STOP] = e->hooks->stop && *e->hooks->stop;
    if (e->pipe)
        QY_TRY(e->pipe->gather(e->pipe, e->mine, e->all, e->counts, err));
    else
        memcpy(e->all, e->mine, (size_t)(n + N_ADD) * sizeof *e->all);
    if (e->rank == 0) {
        status = decide(e, step, tell, err);
        if (status != QY_OK)
            tell[TELL_CLIP] = NAN;
    }
    if (e->pipe)
        QY_TRY(e->pipe->spread(e->pipe, tell, N_TELL, err));
    if (status == QY_OK && !isfinite(tell[TELL_CLIP]))
        status = qy_fail(err, QY_ERR_NUMERIC, "e2e step %lld: not finite, see rank 0",
                         (long long)step + 1);
    return status;
}

static qy_status_t update(e2e_t *e, int64_t step, const float tell[N_TELL], qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    float clip = tell[TELL_CLIP] / s->scale;
    s->scale = tell[TELL_SCALE];
    if (clip > 0)
        return qy_e2e_stage_update(s, step, qy_e2e_rate(e->plan, step), clip, err);
    s->fresh = 1; /* the batch's gradients are dropped */
    return QY_OK;
}

static void tell_progress(const e2e_t *e, int64_t step, int64_t first, double loss)
{
    const qy_plan_t *plan = e->plan;
    int64_t tokens = (step + 1 - first) * plan->spec.e2e_qp.batch_size * plan->e2e_length;
    if (e->rank == 0 && e->hooks->progress) /* every update: they are few and the curve is wanted */
        e->hooks->progress(
            e->hooks->context,
            &(qy_progress_t){.task_id = -1,
                             .block = -1,
                             .step = step + 1,
                             .n_steps = plan->e2e.steps,
                             .loss = loss,
                             .tokens_per_s = (double)tokens / (qy_now_s() - e->began)});
}

static qy_status_t train(e2e_t *e, int64_t step, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    int64_t previous = step, begin = step;
    e->began = e->last_save = qy_now_s();
    e->stage.fresh = 1;
    for (; step < plan->e2e.steps; step++) {
        float tell[N_TELL];
        QY_TRY(set_order(e, step / plan->e2e.steps_per_epoch));
        QY_TRY(run_batch(e, step % plan->e2e.steps_per_epoch * plan->spec.e2e_qp.batch_size, err));
        QY_TRY(meet(e, step, tell, err));
        if (e->stage.n > 0)
            QY_TRY(update(e, step, tell, err));
        tell_progress(e, step, begin, (double)tell[TELL_LOSS]);
        if (tell[TELL_SAVE] > 0) {
            double before = qy_now_s();
            QY_TRY(qy_e2e_stage_save(&e->stage, step + 1, err));
            /* Everybody has saved the one before: all have met since. */
            if (e->rank == 0)
                qy_store_e2e_drop(plan, previous);
            previous = step + 1;
            e->last_save = qy_now_s();
            e->save_s = e->last_save - before;
        }
        qy_watch_beat(e->watch);
        if (tell[TELL_STOP] > 0 && step + 1 < plan->e2e.steps)
            return qy_fail(err, QY_ERR_STOPPED, "stopped on request after E2E-QP's step %lld",
                           (long long)step + 1);
    }
    return QY_OK;
}

static qy_status_t take_host(e2e_t *e, int64_t n_samples, int64_t length, size_t element,
                             qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    size_t micro = (size_t)(plan->spec.e2e_qp.micro_batch_size * length);
    size_t numbers = (size_t)(plan->arch.n_blocks + N_ADD * e->n_ranks);
    e->order = malloc((size_t)n_samples * sizeof *e->order);
    e->batch = malloc(micro * sizeof *e->batch);
    e->row_loss = malloc(micro * sizeof *e->row_loss);
    e->teacher = malloc((size_t)(length * plan->arch.hidden) * element);
    e->mine = malloc(numbers * sizeof *e->mine);
    e->all = malloc(numbers * sizeof *e->all);
    e->counts = malloc((size_t)e->n_ranks * sizeof *e->counts);
    e->epoch = -1;
    if (!e->order || !e->batch || !e->row_loss || !e->teacher || !e->mine || !e->all || !e->counts)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    for (int r = 0; r < e->n_ranks; r++)
        e->counts[r] = (int)(e->first[r + 1] - e->first[r]) + N_ADD;
    return QY_OK;
}

/* Everything up to the first batch; *step: updates that are done. */
static qy_status_t load(e2e_t *e, const qy_model_t *model, int64_t *step, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    int64_t n, length;
    QY_TRY(qy_store_read_tokens(&e->tokens, &n, &length, plan, "e2e", err));
    e->first = malloc((size_t)(e->n_ranks + 1) * sizeof *e->first);
    if (!e->first)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    qy_e2e_split(plan, e->n_ranks, e->first);
    e->n_stages = e->n_ranks < plan->arch.n_blocks ? e->n_ranks : (int)plan->arch.n_blocks;
    QY_TRY(take_host(e, n, length, qy_dtype_bytes(e->dev->compute), err));
    int64_t first = e->first[e->rank], count = e->first[e->rank + 1] - first;
    QY_TRY(qy_e2e_stage_open(&e->stage, plan, e->dev, model, first, count,
                             qy_e2e_slots(plan, e->n_stages, e->rank),
                             qy_memory_room(plan, e->dev, e->n_ranks), err));
    e->stage.scale = first_scale(e);
    *step = qy_store_e2e_last(plan, err);
    if (*step > 0)
        return qy_e2e_stage_load(&e->stage, *step, err);
    *step = 0;
    return QY_OK;
}

static qy_status_t open_all(e2e_t *e, qy_model_t **model, int64_t *step, qy_error_t *err)
{
    QY_TRY(qy_device_open_recorded(&e->dev, e->plan, err));
    QY_TRY(qy_model_open(model, e->plan->spec.model, err));
    (*model)->threads = e->dev->threads;
    QY_TRY(qy_finished_final_norm(e->plan, *model, err));
    return load(e, *model, step, err);
}

/* All ranks begin from the same step, or none does: one that cannot must not keep the others
 * waiting for it. */
static qy_status_t agree(const e2e_t *e, qy_status_t mine, int64_t step, qy_error_t *err)
{
    enum { STATUS, STEP, N_TOLD };
    float my[N_TOLD] = {(float)mine, (float)step}, told[N_TOLD] = {0};
    if (!e->pipe)
        return mine;
    size_t n = (size_t)e->n_ranks;
    float *all = malloc(n * sizeof my);
    int *counts = malloc(n * sizeof *counts);
    qy_status_t status = QY_OK;
    for (size_t r = 0; counts && r < n; r++)
        counts[r] = N_TOLD;
    if (all && counts)
        status = e->pipe->gather(e->pipe, my, all, counts, err);
    else
        status = qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    for (size_t r = 0; status == QY_OK && e->rank == 0 && r < n; r++) {
        if (told[STATUS] == 0 && all[r * N_TOLD + STATUS] != 0)
            told[STATUS] = all[r * N_TOLD + STATUS];
        if (told[STATUS] == 0 && all[r * N_TOLD + STEP] != my[STEP])
            told[STATUS] = QY_ERR_COMM;
    }
    free(all);
    free(counts);
    if (status == QY_OK)
        status = e->pipe->spread(e->pipe, told, N_TOLD, err);
    if (mine != QY_OK || status != QY_OK)
        return mine != QY_OK ? mine : status;
    if (told[STATUS] != 0)
        return qy_fail(err, (qy_status_t)told[STATUS],
                       "E2E-QP cannot begin: another rank failed, or sees another last step");
    return QY_OK;
}

static void free_host(e2e_t *e)
{
    void *all[] = {e->first,   e->tokens, e->batch, e->order, e->row_loss,
                   e->teacher, e->mine,   e->all,   e->counts};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

qy_status_t qy_e2e_run(const qy_plan_t *plan, qy_pipe_t *pipe, const qy_hooks_t *hooks,
                       qy_e2e_share_t *share, qy_error_t *err)
{
    e2e_t e = {.plan = plan, .hooks = hooks, .pipe = pipe, .n_ranks = 1, .n_stages = 1};
    qy_model_t *model = NULL;
    qy_pipe_t *peers = NULL;
    double began = qy_now_s();
    int64_t step = 0;
    if (pipe) {
        e.rank = pipe->rank;
        e.n_ranks = pipe->n_ranks;
    }
    qy_status_t status = agree(&e, open_all(&e, &model, &step, err), step, err);
    int begun = status == QY_OK;
    if (begun && pipe && strcmp(plan->spec.resources.pipe, "mpi") != 0)
        status = qy_pipe_peers_create(&peers, pipe, e.dev, err);
    if (peers)
        e.pipe = peers;
    if (status == QY_OK)
        status =
            qy_watch_start(&e.watch, "E2E-QP", (double)plan->spec.resources.worker_timeout, err);
    if (status == QY_OK)
        status = train(&e, step, err);
    int64_t device_bytes = e.dev ? (int64_t)qy_device_peak(e.dev) : 0;
    qy_pipe_destroy(&peers);
    if (pipe)
        pipe->release(pipe);
    qy_watch_end(&e.watch);
    if (e.stage.dev)
        qy_e2e_stage_close(&e.stage);
    free_host(&e);
    qy_model_close(&model);
    qy_device_close(&e.dev);
    int64_t micros = n_micro(plan);
    /* A stop and a loss that is not finite are told to all; of anything else the others know
     * nothing and wait. */
    *share = (qy_e2e_share_t){.alone = pipe && begun && status != QY_OK &&
                                       status != QY_ERR_STOPPED && status != QY_ERR_NUMERIC,
                              .device_bytes = device_bytes,
                              .busy_s = e.busy_s,
                              .wall_s = e.began > 0 ? qy_now_s() - e.began : 0,
                              .total_s = qy_now_s() - began,
                              .ideal = (double)micros / (double)(micros + e.n_stages - 1)};
    return status;
}
