/* The drawings of the report. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/chart.h"
#include "coordinator/evaluations.h"
#include "coordinator/outlook.h"
#include "coordinator/report.h"
#include "coordinator/spans.h"
#include "coordinator/status_json.h"

static void note(FILE *out, const char *text)
{
    fprintf(out, "<p class=\"none\">%s</p>\n", text);
}

static void legend(FILE *out, const char *const (*entries)[2], int n)
{
    fputs("<p class=\"legend\">", out);
    for (int i = 0; i < n; i++)
        fprintf(out, "<span class=\"key %s\"></span>%s ", entries[i][0], entries[i][1]);
    fputs("</p>\n", out);
}

static void widen(double *low, double *high, double x)
{
    if (!isfinite(x) || x <= 0)
        return;
    *low = fmin(*low, x);
    *high = fmax(*high, x);
}

/* --- losses of the blocks --------------------------------------------------------------------- */

enum { BEFORE, AFTER, N_CURVES = 4 /* held out before and after, training before and after */ };

static double loss_of(const qy_block_result_t *r, int curve)
{
    const double values[N_CURVES] = {r->validation_before, r->validation_after, r->loss_before,
                                     r->loss_after};
    return r->done ? values[curve] : (double)NAN;
}

void qy_report_losses(FILE *out, const qy_run_state_t *s)
{
    static const char *const entries[][2] = {{"b", "held-out windows, before"},
                                             {"a", "held-out windows, after"},
                                             {"thin b", "training, first eighth"},
                                             {"thin a", "training, last eighth"}};
    static const char *const classes[N_CURVES] = {"b", "a", "thin b", "thin a"};
    int64_t n = s->plan->arch.n_blocks;
    double *x = malloc((size_t)n * 2 * sizeof *x), *y = x + n;
    qy_chart_t chart = {.out = out,
                        .x_high = (double)(n - 1),
                        .y_low = INFINITY,
                        .y_high = 0,
                        .log_y = true,
                        .whole_x = true,
                        .x_label = "block",
                        .y_label = "mean squared error"};
    for (int64_t b = 0; b < n; b++)
        for (int c = 0; c < N_CURVES; c++)
            widen(&chart.y_low, &chart.y_high, loss_of(&s->block[b], c));
    if (!x || chart.y_high <= 0) {
        note(out, s->plan->spec.quantize.method == QY_METHOD_RTN
                      ? "Plain rounding has no losses."
                      : "No block has been finished yet.");
        free(x);
        return;
    }
    legend(out, entries, N_CURVES);
    qy_chart_begin(&chart);
    for (int c = N_CURVES - 1; c >= 0; c--) {
        for (int64_t b = 0; b < n; b++) {
            x[b] = (double)b;
            y[b] = loss_of(&s->block[b], c);
        }
        qy_chart_line(&chart, x, y, n, classes[c]);
        if (c <= AFTER)
            qy_chart_dots(&chart, x, y, n, classes[c], "block");
    }
    qy_chart_end(&chart);
    free(x);
}

/* --- E2E-QP ----------------------------------------------------------------------------------- */

/* Of each update what the latest start said of it; returns how many are known. */
static int64_t e2e_losses(double *loss, int64_t steps, const qy_metric_t *metrics, int64_t n)
{
    int64_t known = 0;
    for (int64_t i = 0; i < steps; i++)
        loss[i] = (double)NAN;
    for (int64_t i = 0; i < n; i++) {
        const qy_progress_t *p = &metrics[i].progress;
        if (strcmp(metrics[i].phase, qy_phase_name(QY_RUN_E2E_QP)) == 0 && p->step >= 1 &&
            p->step <= steps)
            loss[p->step - 1] = p->loss;
    }
    for (int64_t i = 0; i < steps; i++)
        known += isfinite(loss[i]);
    return known;
}

/* Mean over a window around each update: single batches differ by more than the training does. */
static void smooth(double *out, const double *loss, int64_t n)
{
    int64_t reach = n / 40;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0, count = 0;
        for (int64_t k = i - reach; k <= i + reach; k++)
            if (k >= 0 && k < n && isfinite(loss[k])) {
                sum += loss[k];
                count += 1;
            }
        out[i] = sum / count; /* NAN: none around */
    }
}

qy_status_t qy_report_e2e(FILE *out, const qy_run_state_t *s, const qy_metric_t *metrics, int64_t n,
                          qy_error_t *err)
{
    static const char *const entries[][2] = {{"thin a", "each update"}, {"a", "mean around it"}};
    int64_t steps = s->plan->e2e.steps;
    if (!s->plan->spec.e2e_qp.present) {
        note(out, "This job has no E2E-QP.");
        return QY_OK;
    }
    double *loss = malloc((size_t)(3 * steps + 3) * sizeof *loss);
    if (!loss)
        return qy_fail(err, QY_ERR_MEMORY, "report: out of memory");
    double *mean = loss + steps, *x = mean + steps;
    qy_chart_t chart = {.out = out,
                        .x_low = 1,
                        .x_high = (double)steps,
                        .y_low = INFINITY,
                        .whole_x = true,
                        .x_label = "update",
                        .y_label = s->plan->spec.e2e_qp.loss == QY_LOSS_DISTILL
                                       ? "KL divergence, nats a token"
                                       : "loss, nats a token"};
    int64_t known = e2e_losses(loss, steps, metrics, n);
    for (int64_t i = 0; i < steps; i++) {
        x[i] = (double)(i + 1);
        widen(&chart.y_low, &chart.y_high, loss[i]);
    }
    if (known == 0) {
        note(out, "E2E-QP has not begun.");
    } else {
        smooth(mean, loss, steps);
        legend(out, entries, 2);
        qy_chart_begin(&chart);
        qy_chart_line(&chart, x, loss, steps, "thin a");
        qy_chart_line(&chart, x, mean, steps, "a");
        qy_chart_end(&chart);
    }
    free(loss);
    return QY_OK;
}

/* --- time of the phases ------------------------------------------------------------------------
 */

enum { BAR_LEFT = 90, BAR_WIDTH = 290, BAR_STEP = 30, BAR_HEIGHT = 16 };

static void phase_bar(FILE *out, const qy_run_state_t *s, int i, int row, double most)
{
    char took[32], expected[32];
    double expect = qy_outlook_expected(s->plan, (qy_run_phase_t)i), y = row * BAR_STEP + 6;
    double width = s->history.took_s[i] / most * BAR_WIDTH;
    bool later = false; /* token files are made before the ledger begins */
    for (int k = i + 1; k < QY_N_RUN_PHASES; k++)
        later = later || s->history.begun[k];
    fprintf(out,
            "<text class=\"name\" x=\"%d\" y=\"%.0f\" text-anchor=\"end\">%s</text>"
            "<rect class=\"p%d\" x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"%d\" rx=\"3\"/>",
            BAR_LEFT - 10, y + 13, qy_phase_name((qy_run_phase_t)i), i, BAR_LEFT, y, fmax(width, 1),
            BAR_HEIGHT);
    if (isfinite(expect))
        fprintf(out, "<line class=\"mark\" x1=\"%.1f\" y1=\"%.0f\" x2=\"%.1f\" y2=\"%.0f\"/>",
                BAR_LEFT + expect / most * BAR_WIDTH, y - 3, BAR_LEFT + expect / most * BAR_WIDTH,
                y + BAR_HEIGHT + 3);
    fprintf(out, "<text class=\"tick\" x=\"%.1f\" y=\"%.0f\">%s",
            BAR_LEFT + 10 + fmax(width, isfinite(expect) ? expect / most * BAR_WIDTH : 0), y + 13,
            s->history.begun[i] ? qy_chart_seconds(s->history.took_s[i], took)
            : later             ? "not timed"
                                : "not begun");
    if (isfinite(expect))
        fprintf(out, " (estimate %s)", qy_chart_seconds(expect, expected));
    fputs("</text>\n", out);
}

void qy_report_phases(FILE *out, const qy_run_state_t *s)
{
    double most = 0;
    int rows = 0;
    for (int i = 0; i < QY_N_RUN_PHASES; i++) {
        double expect = qy_outlook_expected(s->plan, (qy_run_phase_t)i);
        most = fmax(most, fmax(s->history.took_s[i], isfinite(expect) ? expect : 0));
        rows += s->history.begun[i] || expect > 0;
    }
    if (most <= 0) {
        note(out, "Nothing has been timed yet.");
        return;
    }
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", QY_CHART_WIDTH, rows * BAR_STEP + 6);
    for (int i = 0, row = 0; i < QY_N_RUN_PHASES; i++)
        if (s->history.begun[i] || qy_outlook_expected(s->plan, (qy_run_phase_t)i) > 0)
            phase_bar(out, s, i, row++, most);
    fputs("</svg>\n", out);
    if (s->plan->time.device[0])
        fputs("<p class=\"legend\"><span class=\"key tickmark\"></span>estimated before the run"
              "</p>\n",
              out);
}

/* --- the workers' timeline ---------------------------------------------------------------------
 */

enum {
    TIMELINE_WIDTH = 1100,
    ROW_LEFT = 66,
    ROW_RIGHT = 14,
    ROW_MOST = 22,
    ROW_LEAST = 3,
    ROWS_HIGH = 480,
    AXIS = 34
};

typedef struct {
    FILE *out;
    const qy_spans_t *spans;
    double row; /* height of a rank's row */
} timeline_t;

static double place(const timeline_t *t, double time)
{
    double all = fmax(t->spans->to - t->spans->from, 1);
    return ROW_LEFT + (time - t->spans->from) / all * (TIMELINE_WIDTH - ROW_LEFT - ROW_RIGHT);
}

static void draw_span(const timeline_t *t, const qy_span_t *span)
{
    char text[32];
    const char *const ends[] = {"", ", failed", ", cut short"};
    double x = place(t, span->from), width = fmax(place(t, span->to) - x, 1);
    int32_t rows = span->rank < 0 ? t->spans->n_ranks : 1;
    if (span->phase >= QY_N_RUN_PHASES || span->rank >= t->spans->n_ranks)
        return;
    fprintf(t->out,
            "<rect class=\"p%d%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>",
            (int)span->phase,
            span->end == QY_SPAN_FAILED ? " failed"
            : span->end == QY_SPAN_CUT  ? " cut"
                                        : "",
            x, (span->rank < 0 ? 0 : span->rank) * t->row + 1, width, rows * t->row - 2);
    qy_chart_text(t->out, span->task);
    if (span->host[0]) {
        fputs(" on ", t->out);
        qy_chart_text(t->out, span->host);
    }
    fprintf(t->out, ", %s%s</title></rect>\n", qy_chart_seconds(span->to - span->from, text),
            ends[span->end]);
}

static void time_axis(const timeline_t *t, double bottom)
{
    static const struct {
        double seconds;
        const char *name;
    } units[] = {{86400, "days"}, {3600, "hours"}, {60, "minutes"}, {1, "seconds"}};
    double all = fmax(t->spans->to - t->spans->from, 1);
    int u = 0;
    while (u < 3 && all < 2 * units[u].seconds)
        u++;
    double range = all / units[u].seconds, step = qy_chart_step(range, 8);
    for (double x = 0; x <= range * 1.0001; x += step) {
        double at = place(t, t->spans->from + x * units[u].seconds);
        fprintf(t->out,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%.0f\"/>"
                "<text class=\"tick\" x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.4g</text>\n",
                at, at, bottom, at, bottom + 16, x);
    }
    fprintf(t->out,
            "<text class=\"label\" x=\"%d\" y=\"%.0f\" text-anchor=\"middle\">%s since the first "
            "start</text>\n",
            (ROW_LEFT + TIMELINE_WIDTH) / 2, bottom + AXIS - 2, units[u].name);
}

static void draw_starts(const timeline_t *t, const qy_ledger_t *ledger, double bottom)
{
    for (int64_t i = 0; i < qy_ledger_count(ledger); i++) {
        const qy_entry_t *e = qy_ledger_at(ledger, i);
        double time = qy_history_time(e->time);
        if (e->kind == QY_LEDGER_START && isfinite(time))
            fprintf(t->out,
                    "<line class=\"start\" x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%.0f\"><title>"
                    "started %s, %" PRId64 " worker%s</title></line>\n",
                    place(t, time), place(t, time), bottom, e->time, e->workers,
                    e->workers == 1 ? "" : "s");
    }
}

qy_status_t qy_report_timeline(FILE *out, const qy_run_state_t *s, qy_error_t *err)
{
    static const char *const names[][2] = {
        {"p0", "tokens"},     {"p1", "capture"},   {"p2", "quantize"}, {"p3", "stitch"},
        {"p4", "last norm"},  {"p5", "E2E-QP"},    {"p6", "evaluate"}, {"p7", "export"},
        {"failed", "failed"}, {"cut", "cut short"}};
    _Static_assert(sizeof names / sizeof *names == QY_N_RUN_PHASES + 2, "a name for each phase");
    qy_spans_t spans;
    QY_TRY(qy_spans_read(&spans, s->ledger, err));
    if (spans.n == 0 || spans.n_ranks == 0) {
        note(out, "Nobody has worked yet.");
        qy_spans_free(&spans);
        return QY_OK;
    }
    timeline_t t = {.out = out,
                    .spans = &spans,
                    .row = fmin(ROW_MOST, fmax(ROW_LEAST, ROWS_HIGH / (double)spans.n_ranks))};
    double bottom = t.row * spans.n_ranks;
    legend(out, names, sizeof names / sizeof *names);
    fprintf(out, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\">\n", TIMELINE_WIDTH, bottom + AXIS);
    time_axis(&t, bottom);
    int32_t every = t.row >= 10 ? 1 : (int32_t)ceil(12 / t.row);
    for (int32_t r = 0; r < spans.n_ranks; r += every)
        fprintf(out,
                "<text class=\"tick\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">rank %d</text>\n",
                ROW_LEFT - 8, r * t.row + fmin(t.row, ROW_MOST) / 2 + 4, r);
    for (int64_t i = 0; i < spans.n; i++)
        draw_span(&t, &spans.span[i]);
    draw_starts(&t, s->ledger, bottom);
    fputs("</svg>\n", out);
    qy_spans_free(&spans);
    return QY_OK;
}

/* --- perplexity and accuracy --------------------------------------------------------------------
 */

static const char *const variant_titles[QY_N_VARIANTS] = {[QY_VARIANT_ORIGINAL] = "original",
                                                          [QY_VARIANT_ROUNDED] = "rounded plainly",
                                                          [QY_VARIANT_STITCHED] =
                                                              "blocks quantized",
                                                          [QY_VARIANT_FINAL] = "after E2E-QP"};

/* One row of bars: values of the variants, NAN for none. */
static void variant_bars(FILE *out, const char *title, const char *what, const char *format,
                         const double values[QY_N_VARIANTS])
{
    double most = 0;
    int rows = 0;
    for (int v = 0; v < QY_N_VARIANTS; v++) {
        most = isfinite(values[v]) ? fmax(most, values[v]) : most;
        rows += isfinite(values[v]) != 0;
    }
    fputs("<h3>", out);
    qy_chart_text(out, title);
    fprintf(out, " <small>%s</small></h3>\n", what);
    if (rows == 0) {
        note(out, "Not evaluated yet.");
        return;
    }
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", QY_CHART_WIDTH, rows * BAR_STEP + 6);
    for (int v = 0, row = 0; v < QY_N_VARIANTS; v++) {
        if (!isfinite(values[v]))
            continue;
        double y = row++ * BAR_STEP + 6, width = most > 0 ? values[v] / most * BAR_WIDTH : 0;
        fprintf(out,
                "<text class=\"name\" x=\"%d\" y=\"%.0f\" text-anchor=\"end\">%s</text><rect "
                "class=\"v%d\" x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"%d\" rx=\"3\"/><text "
                "class=\"value\" x=\"%.1f\" y=\"%.0f\">",
                BAR_LEFT + 30, y + 13, variant_titles[v], v, BAR_LEFT + 40, y, fmax(width, 1),
                BAR_HEIGHT, BAR_LEFT + 48 + width, y + 13);
        fprintf(out, format, values[v]);
        fputs("</text>\n", out);
    }
    fputs("</svg>\n", out);
}

void qy_report_evaluations(FILE *out, const qy_run_state_t *s)
{
    const qy_spec_t *spec = &s->plan->spec;
    for (int i = 0; i < spec->n_evaluate; i++) {
        double values[QY_N_VARIANTS];
        bool is_task = spec->evaluate[i].task[0] != 0;
        for (int v = 0; v < QY_N_VARIANTS; v++) {
            qy_accuracy_t a;
            if (is_task)
                values[v] = qy_status_accuracy(s, i, v, &a) ? 100 * a.by_bytes : (double)NAN;
            else
                values[v] = qy_status_perplexity(s, i, v);
        }
        variant_bars(out, spec->evaluate[i].name,
                     is_task ? "accuracy by bytes, %; more is better"
                             : "perplexity; less is better",
                     is_task ? "%.2f" : "%.3f", values);
    }
    if (spec->n_evaluate == 0)
        note(out, "The job names no text or task to evaluate on.");
}
