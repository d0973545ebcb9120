#include "worker/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/fill.h"
#include "kernels/gptq.h"
#include "kernels/quant.h"

/* A factor that does not exist is tried again with ten times the damping, up to this share of the
 * mean second moment. */
static const double damping_step = 10.0, damping_least = 1e-6, damping_most = 10.0;

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int qy_gptq_site(const qy_program_t *program, int linear)
{
    int site = -1;
    qy_slot_t last = QY_SLOT_NONE;
    for (int i = 0; i < program->n_rows; i++) {
        const qy_row_t *row = &program->row[i];
        if (row->kind != QY_ROW_LINEAR)
            continue;
        site += row->in != last;
        last = row->in;
        if (row->id == linear)
            break;
    }
    return site;
}

qy_status_t qy_gptq_take(qy_gptq_t *g, const qy_plan_t *plan, qy_block_ap_t *vars,
                         qy_arena_t *arena, qy_error_t *err)
{
    const qy_program_t *program = &vars->f->block.program;
    int64_t rows = 0, cols = 0;
    *g = (qy_gptq_t){.plan = plan,
                     .vars = vars,
                     .given_steps = plan->spec.gptq.static_groups,
                     .plain = !qy_spec_has_gptq(&plan->spec),
                     .read_by_attention = plan->spec.quantize.method == QY_METHOD_GPTQ
                                              ? qy_gptq_site(program, QY_LINEAR_K)
                                              : -1};
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &program->arch.linear[i];
        if (!d->present)
            continue;
        qy_tensor_t *h = &g->h[qy_gptq_site(program, i)];
        rows = larger(rows, d->out);
        cols = larger(cols, d->in);
        if (!h->n_dims && !g->plain)
            QY_TRY(qy_arena_2d(arena, h, QY_F32, d->in, d->in, err));
    }
    QY_TRY(qy_arena_1d(arena, &g->s, QY_F32, rows, err));
    QY_TRY(qy_arena_1d(arena, &g->z, QY_F32, rows, err));
    if (g->plain)
        return QY_OK;
    QY_TRY(qy_arena_2d(arena, &g->u, QY_F32, cols, cols, err));
    QY_TRY(qy_arena_2d(arena, &g->errors, QY_F32, rows, plan->spec.gptq.block_size, err));
    qy_tensor_t *whole[] = {&g->order, &g->inverse, &g->gather, &g->group};
    for (int i = 0; i < 4; i++)
        QY_TRY(qy_arena_1d(arena, whole[i], QY_I32, cols, err));
    QY_TRY(qy_arena_1d(arena, &g->diagonal, QY_F32, cols, err));
    return qy_arena_1d(arena, &g->shift, QY_F32, cols, err);
}

/* --- second moments --------------------------------------------------------------------------- */

/* Where a pass over the samples stands, for progress. */
typedef struct {
    const qy_hooks_t *hooks;
    int64_t block, done, total;
    double began, last;
} pass_t;

/*
 * What attention reads is not worth the same for every token: much of its weight, of all queries,
 * goes to the first of a window, whose key and value the moments of all tokens hardly see. It
 * counts as a share of the window here.
 */
static qy_status_t add_first_tokens(qy_gptq_t *g, int site, const qy_tensor_t *x, float scale,
                                    qy_error_t *err)
{
    int64_t length = g->vars->f->length, rows = qy_tensor_rows(x);
    double more = g->plan->spec.gptq.first_token * (double)(length - 1);
    for (int64_t at = 0; at < rows && more > 0; at += length) {
        qy_tensor_t token = qy_tensor_slice(x, at, 1);
        QY_TRY(
            qy_gram(g->vars->f->dev, &g->h[site], &token, (float)(more * (double)scale), 1, err));
    }
    return QY_OK;
}

/* Adds a batch that has gone through the block to the moments of the sites [first, end). */
static qy_status_t add_batch(qy_gptq_t *g, const qy_block_acts_t *acts, int first, int end,
                             int accumulate, qy_error_t *err)
{
    const qy_forward_t *f = g->vars->f;
    const qy_program_t *program = &f->block.program;
    float scale = (float)(2.0 / (double)g->plan->spec.calibration.samples);
    int seen = first - 1;
    for (int i = 0; i < program->n_rows; i++) {
        const qy_row_t *row = &program->row[i];
        int site = row->kind == QY_ROW_LINEAR ? qy_gptq_site(program, row->id) : -1;
        if (site <= seen || site >= end)
            continue;
        seen = site;
        const qy_tensor_t *x = qy_block_value(&f->block, &f->params, acts, row->in);
        QY_TRY(qy_gram(f->dev, &g->h[site], x, scale, accumulate, err));
        if (site == g->read_by_attention)
            QY_TRY(add_first_tokens(g, site, x, scale, err));
    }
    return QY_OK;
}

/* All training samples through the block as f->params has it: moments of the sites [first, end). */
static qy_status_t collect(qy_gptq_t *g, qy_stream_t *source, int first, int end, pass_t *pass,
                           qy_error_t *err)
{
    qy_forward_t *f = g->vars->f;
    int64_t n = g->plan->spec.calibration.samples;
    QY_TRY(qy_stream_expect_range(source, 0, n, err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = f->batch < n - at ? f->batch : n - at;
        qy_block_acts_t acts = qy_block_acts_narrow(&f->acts, count);
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
        qy_tensor_t y = qy_tensor_slice(&f->y, 0, count * f->length);
        QY_TRY(qy_stream_load_range(source, at, count, x.data, err));
        QY_TRY(qy_block_forward(&f->block, &f->params, &acts, &x, &y, err));
        QY_TRY(add_batch(g, &acts, first, end, at > 0, err));
        QY_TRY(qy_hooks_check(pass->hooks, err));
        pass->done += count;
        double tokens = (double)(pass->done * f->length);
        qy_hooks_progress(pass->hooks, &pass->last,
                          &(qy_progress_t){.kind = QY_TASK_SEGMENT,
                                           .block = pass->block,
                                           .step = pass->done,
                                           .n_steps = pass->total,
                                           .loss = (double)NAN,
                                           .tokens_per_s = tokens / (qy_now_s() - pass->began)});
    }
    return QY_OK;
}

/* --- the factor ------------------------------------------------------------------------------- */

/* One site's columns on the host. */
typedef struct {
    int64_t n;
    float *diagonal, *shift;
    int32_t *order, *inverse, *gather, *group;
} columns_t;

static qy_status_t columns_create(columns_t *c, int64_t n, qy_error_t *err)
{
    *c = (columns_t){.n = n, .diagonal = calloc((size_t)n, 6 * sizeof(float))};
    if (!c->diagonal)
        return qy_fail(err, QY_ERR_MEMORY, "gptq: no memory for %lld columns", (long long)n);
    c->shift = c->diagonal + n;
    c->order = (int32_t *)(void *)(c->diagonal + 2 * n);
    c->inverse = c->order + n;
    c->gather = c->order + 2 * n;
    c->group = c->order + 3 * n;
    return QY_OK;
}

/* Stable: equal moments stay in their order, so that the order is one function of the moments. */
static void sort_by_moment(columns_t *c)
{
    int32_t *from = c->order, *to = c->inverse; /* the other half of a merge */
    for (int64_t width = 1; width < c->n; width *= 2) {
        for (int64_t low = 0; low < c->n; low += 2 * width) {
            int64_t middle = low + width < c->n ? low + width : c->n;
            int64_t end = middle + width < c->n ? middle + width : c->n;
            for (int64_t i = low, j = middle, k = low; k < end; k++) {
                bool left =
                    i < middle && (j == end || c->diagonal[from[i]] >= c->diagonal[from[j]]);
                to[k] = from[left ? i++ : j++];
            }
        }
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != c->order)
        memcpy(c->order, from, (size_t)c->n * sizeof *from);
}

/* Order of work, and what follows from it; a column without input is worked on from weight 0.
 * groups may be NULL. */
static void arrange(columns_t *c, bool by_moment, const int32_t *groups, int64_t group_cols)
{
    for (int64_t i = 0; i < c->n; i++)
        c->order[i] = (int32_t)i;
    if (by_moment)
        sort_by_moment(c);
    for (int64_t i = 0; i < c->n; i++) {
        int32_t column = c->order[i];
        c->inverse[column] = (int32_t)i;
        c->gather[i] = c->diagonal[column] == 0.0f ? -1 : column;
        c->group[i] = groups ? groups[column] : (int32_t)(column / group_cols);
    }
}

static qy_status_t send(const qy_gptq_t *g, qy_tensor_t *to, const void *from, int64_t n,
                        qy_error_t *err)
{
    to->shape[0] = n;
    return qy_device_upload(g->vars->f->dev, to->data, from, (size_t)n * sizeof(float), err);
}

/* Damped until there is a factor. */
static qy_status_t factorize(qy_gptq_t *g, int64_t block, const char *name, int site, columns_t *c,
                             qy_error_t *err)
{
    const qy_device_t *dev = g->vars->f->dev;
    double mean = 0, damping = g->plan->spec.gptq.damping;
    int definite = 0;
    for (int64_t i = 0; i < c->n; i++)
        mean += (c->diagonal[i] == 0.0f ? 1.0 : (double)c->diagonal[i]) / (double)c->n;
    g->u = qy_tensor_2d(g->u.data, QY_F32, c->n, c->n);
    for (; !definite; damping = fmax(damping, damping_least) * damping_step) {
        if (damping > damping_most)
            return qy_fail(err, QY_ERR_NUMERIC,
                           "block %lld, %s: second moments of its inputs have no factor",
                           (long long)block, name);
        for (int64_t i = 0; i < c->n; i++)
            c->shift[i] = (float)(damping * mean + (c->diagonal[i] == 0.0f ? 1.0 : 0.0));
        QY_TRY(send(g, &g->shift, c->shift, c->n, err));
        QY_TRY(qy_inverse_factor(dev, &g->u, &definite, &g->h[site], &g->order, &g->shift, err));
    }
    return QY_OK;
}

/* Everything that the linear layers of a site share. */
static qy_status_t prepare(qy_gptq_t *g, int64_t block, const char *name, int site, columns_t *c,
                           qy_error_t *err)
{
    qy_quant_form_t form = g->vars->f->form;
    const qy_device_t *dev = g->vars->f->dev;
    g->diagonal.shape[0] = c->n;
    QY_TRY(qy_diagonal(dev, &g->diagonal, &g->h[site], err));
    QY_TRY(
        qy_device_download(dev, c->diagonal, g->diagonal.data, (size_t)c->n * sizeof(float), err));
    for (int64_t i = 0; i < c->n; i++)
        if (!isfinite(c->diagonal[i]))
            return qy_fail(err, QY_ERR_NUMERIC,
                           "block %lld, %s: the second moment of input %lld is %g",
                           (long long)block, name, (long long)i, (double)c->diagonal[i]);
    arrange(c, g->plan->spec.gptq.act_order && !g->groups[site], g->groups[site],
            qy_quant_group_cols(&form, c->n));
    QY_TRY(send(g, &g->order, c->order, c->n, err));
    QY_TRY(send(g, &g->inverse, c->inverse, c->n, err));
    QY_TRY(send(g, &g->gather, c->gather, c->n, err));
    QY_TRY(send(g, &g->group, c->group, c->n, err));
    return factorize(g, block, name, site, c, err);
}

/* --- a linear layer --------------------------------------------------------------------------- */

/* Steps as the finished model has them: f16. room holds as many halves. */
static qy_status_t round_steps(const qy_device_t *dev, qy_tensor_t *s, void *room, qy_error_t *err)
{
    qy_tensor_t half = qy_tensor_view(room, QY_F16, s->n_dims, s->shape);
    QY_TRY(qy_convert(dev, &half, s, err));
    return qy_convert(dev, s, &half, err);
}

/* The range of group number `group`, which begins at this column, from its weights as they are by
 * now. room holds the layer. */
static qy_status_t update_range(qy_gptq_t *g, qy_quant_vars_t *v, const qy_tensor_t *w, void *room,
                                int64_t first, int64_t cols, int64_t group, qy_error_t *err)
{
    const qy_device_t *dev = g->vars->f->dev;
    qy_quant_form_t form = g->vars->f->form;
    int64_t o = qy_tensor_rows(w);
    qy_tensor_t part = qy_tensor_2d(room, QY_F32, o, cols);
    qy_tensor_t s = qy_tensor_2d(g->s.data, QY_F32, o, 1),
                z = qy_tensor_2d(g->z.data, QY_F32, o, 1);
    QY_TRY(qy_copy_columns(dev, &part, 0, w, first, cols, err));
    QY_TRY(qy_quant_start(dev, &s, &z, &part, form.bits, form.symmetric,
                          g->vars->init == QY_INIT_LEAST_SQUARES, err));
    QY_TRY(round_steps(dev, &s, room, err));
    QY_TRY(qy_copy_columns(dev, &v->s, group, &s, 0, 1, err));
    return qy_copy_columns(dev, &v->z, group, &z, 0, 1, err);
}

/* The column behind the group that begins at `first`, of n columns. */
static int64_t group_end(const int32_t *groups, int64_t cols, int64_t first, int64_t n)
{
    int64_t end = first + cols;
    if (groups)
        for (end = first + 1; end < n && groups[end] == groups[first];)
            end++;
    return end;
}

/* Rounds w, whose columns stand in the order of work; those without groups have cols in each. */
static qy_status_t work_off(qy_gptq_t *g, qy_quant_vars_t *v, qy_tensor_t *w, const int32_t *groups,
                            qy_error_t *err)
{
    qy_quant_form_t form = g->vars->f->form;
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    int64_t cols = qy_quant_group_cols(&form, i), block = g->plan->spec.gptq.block_size;
    for (int64_t first = 0, end = 0, n; first < i; first += n) {
        if (first == end && !g->given_steps) {
            end = group_end(groups, cols, first, i);
            QY_TRY(update_range(g, v, w, v->w.data, first, end - first,
                                groups ? groups[first] : first / cols, err));
        }
        n = g->given_steps ? i - first : end - first;
        n = n < block ? n : block;
        qy_tensor_t errors = qy_tensor_2d(g->errors.data, QY_F32, o, n);
        QY_TRY(qy_gptq_columns(g->vars->f->dev, w, &errors, &g->u, &v->s, &v->z, &g->group, first,
                               form.bits, err));
    }
    return QY_OK;
}

/* The steps of a layer that is rounded plainly, from its weights, whose groups stand side by side.
 */
static qy_status_t find_steps(qy_gptq_t *g, int id, const int32_t *groups, qy_error_t *err)
{
    qy_quant_vars_t *v = &g->vars->vars[id];
    int64_t cols = qy_tensor_cols(&v->w);
    for (int64_t first = 0, end; first < cols; first = end) {
        end = group_end(groups, 0, first, cols);
        QY_TRY(update_range(g, v, &v->w, g->vars->f->staging.data, first, end - first,
                            groups[first], err));
    }
    return QY_OK;
}

static qy_status_t find_all_steps(qy_gptq_t *g, qy_error_t *err)
{
    const qy_program_t *program = &g->vars->f->block.program;
    for (int i = 0; i < QY_N_LINEARS && !g->given_steps; i++)
        if (program->arch.linear[i].present)
            QY_TRY(find_steps(g, i, g->groups[qy_gptq_site(program, i)], err));
    return QY_OK;
}

/* Leaves the rounded weight in the variables and, with groups of consecutive columns, in f->params.
 */
static qy_status_t round_linear(qy_gptq_t *g, int id, int site, qy_error_t *err)
{
    qy_forward_t *f = g->vars->f;
    qy_quant_vars_t *v = &g->vars->vars[id];
    int bits = f->form.bits;
    qy_tensor_t w = qy_tensor_view(f->staging.data, QY_F32, 2, v->w.shape);
    QY_TRY(round_steps(f->dev, &v->s, w.data, err));
    QY_TRY(qy_gather_columns(f->dev, &w, &v->w, &g->gather, err));
    QY_TRY(work_off(g, v, &w, g->groups[site], err));
    QY_TRY(qy_gather_columns(f->dev, &v->w, &w, &g->inverse, err));
    if (g->groups[site])
        return QY_OK;
    return qy_fake_quant_fwd(f->dev, &f->params.w[id], &v->w, &v->s, &v->z, bits, err);
}

static qy_status_t round_site(qy_gptq_t *g, int64_t block, int site, qy_error_t *err)
{
    const qy_program_t *program = &g->vars->f->block.program;
    columns_t c = {0};
    qy_status_t status = QY_OK;
    for (int i = 0; i < program->n_rows && status == QY_OK; i++) {
        const qy_row_t *row = &program->row[i];
        if (row->kind != QY_ROW_LINEAR || qy_gptq_site(program, row->id) != site)
            continue;
        const qy_linear_desc_t *d = &program->arch.linear[row->id];
        if (!c.n) {
            QY_TRY(columns_create(&c, d->in, err));
            status = prepare(g, block, d->name, site, &c, err);
        }
        if (status == QY_OK)
            status = round_linear(g, row->id, site, err);
    }
    if (status == QY_OK)
        status = qy_device_wait(g->vars->f->dev, err); /* for the uploads */
    free(c.diagonal);
    return status;
}

qy_status_t qy_gptq_add(qy_gptq_t *g, const qy_block_acts_t *acts, int accumulate, qy_error_t *err)
{
    return g->plain ? QY_OK : add_batch(g, acts, 0, QY_GPTQ_SITES, accumulate, err);
}

qy_status_t qy_gptq_round(qy_gptq_t *g, int64_t block, qy_error_t *err)
{
    if (g->plain)
        return find_all_steps(g, err);
    for (int site = 0; site < QY_GPTQ_SITES; site++)
        QY_TRY(round_site(g, block, site, err));
    return QY_OK;
}

qy_status_t qy_gptq_run(qy_gptq_t *g, int64_t block, const qy_block_weights_t *weights,
                        qy_stream_t *source, const qy_hooks_t *hooks, qy_error_t *err)
{
    qy_forward_t *f = g->vars->f;
    int passes = g->plan->spec.gptq.sequential ? QY_GPTQ_SITES : 1;
    pass_t pass = {.hooks = hooks,
                   .block = block,
                   .total = passes * g->plan->spec.calibration.samples,
                   .began = qy_now_s()};
    QY_TRY(qy_block_params_load(&f->params, &f->block, weights, &f->staging, 1, err));
    for (int i = 0; i < passes; i++) {
        int first = passes > 1 ? i : 0, end = passes > 1 ? i + 1 : QY_GPTQ_SITES;
        QY_TRY(collect(g, source, first, end, &pass, err));
        for (int site = first; site < end; site++)
            QY_TRY(round_site(g, block, site, err));
    }
    return QY_OK;
}
