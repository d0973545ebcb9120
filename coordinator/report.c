#include "coordinator/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/chart.h"
#include "coordinator/status_json.h"
#include "jobs/plan_time.h"
#include "jobs/store.h"
#include "model/json.h"

/* Progress lines of a run of days are less. */
#define METRICS_BYTES_MAX ((size_t)1 << 28)

enum { DEVICE_BYTES_MAX = 1 << 16 };

/* Okabe and Ito's colours, which most colour-blind people can tell apart. */
static const char style[] =
    ":root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1d2430;--soft:#667085;"
    "--grid:#e4e7ec;--a:#0072b2;--b:#d55e00}"
    "@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--ink:#e8ebf0;"
    "--soft:#98a2b3;--grid:#303844;--a:#56b4e9;--b:#f0873c}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
    "main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}"
    "h1{font-size:26px;margin:0 0 2px}h2{font-size:17px;margin:0 0 10px}"
    "h3{font-size:15px;margin:10px 0 2px}small,.sub{color:var(--soft);font-weight:400}"
    ".sub{margin:0 0 18px;overflow-wrap:anywhere}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:14px}"
    ".tile,section{background:var(--card);border-radius:12px;padding:14px 18px;"
    "box-shadow:0 1px 3px rgba(16,24,40,.10)}"
    ".tile b{display:block;font-size:20px;white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".tile span{color:var(--soft);font-size:13px}"
    ".grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:14px}"
    "section{margin-top:14px;min-width:0}.grid2{margin-top:14px}.grid2 section{margin-top:0}"
    "svg{width:100%;height:auto;display:block}"
    "text{fill:var(--ink);font-size:12px}.tick,.label{fill:var(--soft)}"
    ".value{font-weight:600}.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}"
    ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}"
    ".line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.line.thin{stroke-width:1;opacity:.55}"
    ".dot{stroke:var(--card);stroke-width:1}.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}"
    ".mark{stroke:var(--ink);stroke-width:2}.start{stroke:var(--ink);stroke-dasharray:3 3}"
    ".p0,.p0.key{fill:#999999}.p1{fill:#56b4e9}.p2{fill:#0072b2}.p3{fill:#cc79a7}.p4{fill:#8c564b}"
    ".p5{fill:#009e73}.p6{fill:#e69f00}.p7{fill:#b8a9d9}rect.cut{opacity:.45}rect.failed{fill:#"
    "d32f2f}"
    ".v0{fill:#667085}.v1{fill:#d55e00}.v2{fill:#0072b2}.v3{fill:#009e73}"
    ".legend{margin:0 0 6px;color:var(--soft);font-size:13px}.none{color:var(--soft)}"
    ".key{display:inline-block;width:12px;height:12px;border-radius:3px;margin:0 5px 0 10px;"
    "vertical-align:-1px}.key.a{background:var(--a)}.key.b{background:var(--b)}"
    ".key.thin{height:3px;vertical-align:4px;opacity:.6}.key.p0{background:#999999}"
    ".key.p1{background:#56b4e9}.key.p2{background:#0072b2}.key.p3{background:#cc79a7}"
    ".key.p4{background:#8c564b}.key.p5{background:#009e73}.key.p6{background:#e69f00}"
    ".key.p7{background:#b8a9d9}"
    ".key.failed{background:#d32f2f}.key.cut{background:#0072b2;opacity:.45}"
    ".key.tickmark{width:3px;height:14px;background:var(--ink)}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px;"
    "font-variant-numeric:tabular-nums}th,td{padding:4px 10px;text-align:right;"
    "border-bottom:1px solid var(--grid)}th{color:var(--soft);font-weight:500}"
    "td:first-child,th:first-child{text-align:left}.error{color:#d32f2f}";

/* --- the head -----------------------------------------------------------------------------------
 */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void tile(FILE *out, const char *value, const char *title)
{
    fputs("<div class=\"tile\"><b>", out);
    qy_chart_text(out, value);
    fputs("</b><span>", out);
    qy_chart_text(out, title);
    fputs("</span></div>\n", out);
}

/* What device.json says of the model of the device, or nothing. */
static void device_name(const qy_plan_t *plan, char *out, size_t size)
{
    char path[QY_PATH_MAX];
    json_t *root = NULL;
    const char *model = "";
    out[0] = '\0';
    if (qy_path(path, NULL, "%s/device.json", plan->spec.run_dir) != QY_OK ||
        qy_json_read(&root, path, DEVICE_BYTES_MAX, NULL) != QY_OK)
        return;
    if (qy_json_string(root, path, "model", &model, NULL) == QY_OK)
        snprintf(out, size, "%s", model);
    json_decref(root);
}

static void put_subtitle(FILE *out, const qy_run_state_t *s, const char *version)
{
    char now[24], device[160];
    const qy_plan_t *plan = s->plan;
    static const char *const methods[QY_N_METHODS] = {[QY_METHOD_BLOCK_AP] = "Block-AP",
                                                      [QY_METHOD_RTN] = "rounding",
                                                      [QY_METHOD_GPTQ] = "GPTQ",
                                                      [QY_METHOD_RPTQ] = "RPTQ",
                                                      [QY_METHOD_QLLM] = "QLLM"};
    qy_utc(now);
    device_name(plan, device, sizeof device);
    fprintf(out, "<p class=\"sub\">%s to %" PRId64 " bits", methods[plan->spec.quantize.method],
            plan->spec.quantize.weights.bits);
    if (plan->group)
        fprintf(out, ", groups of %" PRId64, plan->group);
    fprintf(out, " · %" PRId64 " segment%s · plan %.12s · ", plan->n_segments,
            plan->n_segments == 1 ? "" : "s", plan->hash);
    qy_chart_text(out, device[0] ? device : "no device yet");
    fputs("<br>", out);
    qy_chart_text(out, plan->spec.run_dir);
    fprintf(out, " · quarry %s, %s</p>\n", version, now);
}

/* The perplexity of the first text before and after, or the first accuracy. */
static void result_tile(FILE *out, const qy_run_state_t *s)
{
    char value[64], title[160];
    const qy_plan_t *plan = s->plan;
    int last = plan->spec.e2e_qp.present ? QY_VARIANT_FINAL : QY_VARIANT_STITCHED;
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        const char *name = plan->spec.evaluate[i].name;
        qy_accuracy_t before, after;
        if (plan->spec.evaluate[i].task[0]) {
            if (!qy_status_accuracy(s, i, QY_VARIANT_ORIGINAL, &before) ||
                !qy_status_accuracy(s, i, last, &after))
                continue;
            snprintf(value, sizeof value, "%.1f → %.1f %%", 100 * before.by_bytes,
                     100 * after.by_bytes);
            snprintf(title, sizeof title, "accuracy, %s", name);
        } else {
            double was = qy_status_perplexity(s, i, QY_VARIANT_ORIGINAL);
            double is = qy_status_perplexity(s, i, last);
            if (!isfinite(was) || !isfinite(is))
                continue;
            snprintf(value, sizeof value, "%.2f → %.2f", was, is);
            snprintf(title, sizeof title, "perplexity, %s", name);
        }
        tile(out, value, title);
        return;
    }
}

static void put_tiles(FILE *out, const qy_run_state_t *s)
{
    char value[64], title[96], a[32];
    const qy_history_t *h = &s->history;
    double took = 0, estimate = qy_plan_total_s(s->plan);
    for (int i = 0; i < QY_N_RUN_PHASES; i++)
        took += h->took_s[i];
    fputs("<div class=\"tiles\">\n", out);
    tile(out, s->state, s->phase[0] ? s->phase : "state");
    result_tile(out, s);
    snprintf(value, sizeof value, "%" PRId64 " of %" PRId64, s->n_done, s->plan->arch.n_blocks);
    tile(out, value, "blocks finished");
    snprintf(title, sizeof title, "at work%s%s", estimate > 0 ? ", estimate " : "",
             estimate > 0 ? qy_chart_seconds(estimate, a) : "");
    tile(out, qy_chart_seconds(took, value), title);
    snprintf(value, sizeof value, "%" PRId64, h->starts);
    snprintf(title, sizeof title, "start%s, %" PRId64 " failed attempts", h->starts == 1 ? "" : "s",
             h->failed);
    tile(out, value, title);
    snprintf(value, sizeof value, "%" PRId64, s->start ? s->start->workers : 0);
    tile(out, value, "workers at the latest start");
    fputs("</div>\n", out);
    if (s->error[0]) {
        fputs("<section class=\"error\">", out);
        qy_chart_text(out, s->error);
        fputs("</section>\n", out);
    }
}

/* --- the table ----------------------------------------------------------------------------------
 */

static void put_number(FILE *out, const char *format, double x)
{
    fputs("<td>", out);
    if (isfinite(x))
        fprintf(out, format, x);
    else
        fputs("–", out);
    fputs("</td>", out);
}

static void put_blocks(FILE *out, const qy_run_state_t *s)
{
    fputs("<div class=\"scroll\"><table><tr><th>block<th>segment<th>state<th>training, first "
          "eighth<th>last eighth<th>held out, before<th>after<th>time<th>waiting for disk</tr>\n",
          out);
    for (int64_t b = 0; b < s->plan->arch.n_blocks; b++) {
        char text[32];
        const qy_block_result_t *r = &s->block[b];
        fprintf(out, "<tr><td>%" PRId64 "</td><td>%" PRId64 "</td><td>%s</td>", b,
                qy_plan_segment_of(s->plan, b), qy_status_block(s, b));
        put_number(out, "%.3e", r->loss_before);
        put_number(out, "%.3e", r->loss_after);
        put_number(out, "%.3e", r->validation_before);
        put_number(out, "%.3e", r->validation_after);
        fprintf(out, "<td>%s</td>", r->done ? qy_chart_seconds(r->seconds, text) : "–");
        put_number(out, "%.1f %%", r->seconds > 0 ? 100 * r->stall_s / r->seconds : (double)NAN);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

/* --- the page -----------------------------------------------------------------------------------
 */

static qy_status_t put_sections(FILE *out, const qy_run_state_t *s, const qy_metric_t *metrics,
                                int64_t n, qy_error_t *err)
{
    fputs("<div class=\"grid2\">\n<section><h2>Before and after</h2>\n", out);
    qy_report_evaluations(out, s);
    fputs("</section>\n<section><h2>Time by phase</h2>\n", out);
    qy_report_phases(out, s);
    fputs("</section>\n<section><h2>Loss of each block</h2>\n", out);
    qy_report_losses(out, s);
    fputs("</section>\n<section><h2>E2E-QP</h2>\n", out);
    QY_TRY(qy_report_e2e(out, s, metrics, n, err));
    fputs("</section>\n</div>\n<section><h2>Workers</h2>\n", out);
    QY_TRY(qy_report_timeline(out, s, err));
    fputs("</section>\n<section><h2>Blocks</h2>\n", out);
    put_blocks(out, s);
    fputs("</section>\n", out);
    return QY_OK;
}

qy_status_t qy_report_write(FILE *out, const char *run_dir, const char *version, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_run_state_t s;
    qy_metric_t *metrics = NULL;
    int64_t n = 0;
    QY_TRY(qy_run_state_read(&s, run_dir, err));
    qy_status_t status = qy_store_metrics(path, s.plan, err);
    if (status == QY_OK)
        status = qy_metrics_read(&metrics, &n, path, METRICS_BYTES_MAX, err);
    if (status == QY_OK) {
        fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta "
              "name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
              out);
        qy_chart_text(out, base_name(s.plan->spec.model));
        fprintf(out, " – quarry</title><style>%s</style></head>\n<body><main>\n<h1>", style);
        qy_chart_text(out, base_name(s.plan->spec.model));
        fputs("</h1>\n", out);
        put_subtitle(out, &s, version);
        put_tiles(out, &s);
        status = put_sections(out, &s, metrics, n, err);
        fputs("</main></body></html>\n", out);
    }
    free(metrics);
    qy_run_state_free(&s);
    return status;
}
