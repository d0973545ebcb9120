/* What the ledger of several starts tells together: times of phases, starts that brought nothing,
 * and the bars of the timeline. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "coordinator/chart.h"
#include "coordinator/spans.h"

static char folder[] = "/tmp/quarry-history-XXXXXX";

static int open_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int close_folder(void **state)
{
    (void)state;
    return qy_remove_tree(folder, NULL) == QY_OK ? 0 : -1;
}

typedef struct {
    int at; /* seconds after noon */
    qy_entry_t entry;
} event_t;

static qy_ledger_t *ledger_of(const event_t *events, int n)
{
    char path[QY_PATH_MAX];
    qy_ledger_t *ledger = NULL;
    assert_int_equal(qy_path(path, NULL, "%s/ledger.jsonl", folder), QY_OK);
    remove(path);
    assert_int_equal(qy_ledger_open(&ledger, path, NULL), QY_OK);
    for (int i = 0; i < n; i++) {
        qy_entry_t e = events[i].entry;
        char time[64];
        snprintf(time, sizeof time, "2026-11-22T12:%02d:%02dZ", events[i].at / 60,
                 events[i].at % 60);
        memcpy(e.time, time, strlen(time) + 1);
        assert_int_equal(qy_ledger_append(ledger, &e, NULL), QY_OK);
    }
    return ledger;
}

#define START(n)                                                                                   \
    {                                                                                              \
        .kind = QY_LEDGER_START, .workers = (n)                                                    \
    }
#define BEGIN(p)                                                                                   \
    {                                                                                              \
        .kind = QY_LEDGER_PHASE, .phase = (p), .seconds = -1                                       \
    }
#define END(p, s)                                                                                  \
    {                                                                                              \
        .kind = QY_LEDGER_PHASE, .phase = (p), .seconds = (s)                                      \
    }
#define ASSIGN(t, r)                                                                               \
    {                                                                                              \
        .kind = QY_LEDGER_ASSIGN, .phase = "quantize", .task = (t), .rank = (r), .host = "n1"      \
    }
#define DONE(t, r)                                                                                 \
    {                                                                                              \
        .kind = QY_LEDGER_DONE, .phase = "quantize", .task = (t), .rank = (r)                      \
    }
#define FAILED(t, r)                                                                               \
    {                                                                                              \
        .kind = QY_LEDGER_FAILED, .phase = "quantize", .task = (t), .rank = (r)                    \
    }
#define STOPPED                                                                                    \
    {                                                                                              \
        .kind = QY_LEDGER_STOP, .status = QY_ERR_STOPPED                                           \
    }

/* Killed in capture at 20 s, stopped in quantize at 100 s, then E2E-QP at work from 200 s on. */
static const event_t night[] = {
    {0, START(2)},
    {0, BEGIN("capture")},
    {20, {.kind = QY_LEDGER_DONE, .phase = "capture", .task = "capture calibration range 0"}},
    {50, START(2)},
    {50, BEGIN("capture")},
    {60, END("capture", 10.25)},
    {60, BEGIN("quantize")},
    {60, ASSIGN("segment 0", 0)},
    {60, ASSIGN("segment 1", 1)},
    {70, FAILED("segment 1", 1)},
    {71, ASSIGN("segment 1", 1)},
    {90, DONE("segment 0", 0)},
    {100, STOPPED},
    {150, START(1)},
    {150, BEGIN("quantize")},
    {150, ASSIGN("segment 1", 0)},
    {200, DONE("segment 1", 0)},
    {200, END("quantize", 50)},
    {200, BEGIN("e2e_qp")},
};
enum { N_NIGHT = sizeof night / sizeof *night };

static void test_times(void **state)
{
    (void)state;
    qy_history_t h;
    qy_ledger_t *ledger = ledger_of(night, N_NIGHT);
    double now = qy_history_time("2026-11-22T12:05:00Z");
    qy_history_read(&h, ledger, now);
    assert_true(fabs(h.took_s[QY_RUN_CAPTURE] - 30.25) < 1e-9);
    assert_true(fabs(h.took_s[QY_RUN_QUANTIZE] - 90) < 1e-9);
    assert_true(fabs(h.took_s[QY_RUN_E2E_QP] - 100) < 1e-9);
    assert_true(h.done[QY_RUN_CAPTURE] && h.done[QY_RUN_QUANTIZE] && !h.done[QY_RUN_E2E_QP]);
    assert_true(h.begun[QY_RUN_E2E_QP] && !h.begun[QY_RUN_EXPORT]);
    assert_int_equal(h.starts, 3);
    assert_int_equal(h.idle_starts, 0);
    assert_int_equal(h.failed, 1);
    qy_history_read(&h, ledger,
                    (double)NAN); /* nobody is at work: E2E-QP ended with the last event */
    assert_true(h.took_s[QY_RUN_E2E_QP] == 0);
    qy_ledger_close(&ledger);
    qy_history_read(&h, NULL, now);
    assert_int_equal(h.starts, 0);
}

static void test_idle(void **state)
{
    (void)state;
    const event_t events[] = {{0, START(1)},         {1, BEGIN("capture")},  {2, END("capture", 1)},
                              {3, START(1)},         {4, BEGIN("quantize")}, {5, START(1)},
                              {6, BEGIN("quantize")}};
    qy_history_t h;
    qy_ledger_t *ledger = ledger_of(events, sizeof events / sizeof *events);
    qy_history_read(&h, ledger, (double)NAN);
    assert_int_equal(h.starts, 3);
    assert_int_equal(h.idle_starts, 2);
    qy_ledger_close(&ledger);

    /* a run that has nothing left to do ends well */
    const event_t again[] = {
        {0, START(1)}, {1, {.kind = QY_LEDGER_STOP}}, {2, START(1)}, {3, {.kind = QY_LEDGER_STOP}}};
    ledger = ledger_of(again, sizeof again / sizeof *again);
    qy_history_read(&h, ledger, (double)NAN);
    assert_int_equal(h.starts, 2);
    assert_int_equal(h.idle_starts, 0);
    qy_ledger_close(&ledger);
}

static void expect_span(const qy_span_t *span, const char *task, int rank, double from, double to,
                        qy_span_end_t end)
{
    double noon = qy_history_time("2026-11-22T12:00:00Z");
    assert_string_equal(span->task, task);
    assert_int_equal(span->rank, rank);
    assert_true(span->from - noon == from);
    assert_true(span->to - noon == to);
    assert_int_equal(span->end, end);
}

static void test_spans(void **state)
{
    (void)state;
    qy_spans_t spans;
    qy_ledger_t *ledger = ledger_of(night, N_NIGHT);
    assert_int_equal(qy_spans_read(&spans, ledger, NULL), QY_OK);
    assert_int_equal(spans.n, 5);
    assert_int_equal(spans.n_ranks, 2);
    expect_span(&spans.span[0], "segment 0", 0, 60, 90, QY_SPAN_DONE);
    expect_span(&spans.span[1], "segment 1", 1, 60, 70, QY_SPAN_FAILED);
    expect_span(&spans.span[2], "segment 1", 1, 71, 100, QY_SPAN_CUT);
    expect_span(&spans.span[3], "segment 1", 0, 150, 200, QY_SPAN_DONE);
    expect_span(&spans.span[4], "e2e_qp", -1, 200, 200, QY_SPAN_CUT);
    assert_true(spans.to - spans.from == 200);
    qy_spans_free(&spans);
    qy_ledger_close(&ledger);
}

static void test_chart(void **state)
{
    (void)state;
    char text[32], *page = NULL;
    size_t n;
    assert_true(fabs(qy_chart_step(10, 5) - 2) < 1e-12);
    assert_true(fabs(qy_chart_step(0.07, 5) - 0.02) < 1e-12);
    assert_string_equal(qy_chart_seconds(3723, text), "1:02:03");
    assert_string_equal(qy_chart_seconds((double)NAN, text), "–");
    FILE *out = open_memstream(&page, &n);
    qy_chart_text(out, "a<b>&\"\n");
    /* What cannot be drawn is left out, and ranges without a width are given one. */
    qy_chart_t chart = {.out = out,
                        .x_low = 3,
                        .x_high = 3,
                        .y_low = INFINITY,
                        .log_y = true,
                        .x_label = "x",
                        .y_label = "y"};
    qy_chart_begin(&chart);
    qy_chart_dots(&chart, (double[]){3, 3}, (double[]){(double)NAN, -1}, 2, "a", "p");
    qy_chart_end(&chart);
    fclose(out);
    assert_non_null(strstr(page, "a&lt;b&gt;&amp;&quot; "));
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "inf"));
    assert_null(strstr(page, "<circle"));
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_chart),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
