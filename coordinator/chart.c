#include "coordinator/chart.h"

#include <math.h>

/* Margins of the plot inside the drawing. */
static const double left = 66, right = 14, top = 12, bottom = 44;

enum {
    X_TICKS = 8,
    Y_TICKS = 5,
    DECADES_BARE = 3 /* with more, only powers of ten are labelled */
};

void qy_chart_text(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc((unsigned char)*text < ' ' ? ' ' : *text, out);
        }
}

const char *qy_chart_seconds(double seconds, char text[32])
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
        snprintf(text, 32, "–");
    } else if (seconds < 60) {
        snprintf(text, 32, seconds < 10 ? "%.1f s" : "%.0f s", seconds);
    } else {
        long long s = llround(seconds);
        if (s < 3600)
            snprintf(text, 32, "%lld:%02lld", s / 60, s % 60);
        else
            snprintf(text, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    }
    return text;
}

double qy_chart_step(double range, int n)
{
    double raw = range / n, unit = pow(10, floor(log10(raw)));
    double ratio = raw / unit;
    return unit * (ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10);
}

double qy_chart_x(const qy_chart_t *c, double x)
{
    return left + (x - c->x_low) / (c->x_high - c->x_low) * (QY_CHART_WIDTH - left - right);
}

double qy_chart_y(const qy_chart_t *c, double y)
{
    double part = c->log_y ? (log10(y) - log10(c->y_low)) / (log10(c->y_high) - log10(c->y_low))
                           : (y - c->y_low) / (c->y_high - c->y_low);
    return QY_CHART_HEIGHT - bottom - part * (QY_CHART_HEIGHT - top - bottom);
}

/* Ranges that can be drawn, on ticks' borders. */
static void settle(qy_chart_t *c)
{
    if (!isfinite(c->x_low) || !isfinite(c->x_high) || c->x_low > c->x_high)
        c->x_low = c->x_high = 0;
    if (!isfinite(c->y_low) || !isfinite(c->y_high) || c->y_low > c->y_high)
        c->y_low = c->y_high = c->log_y ? 1 : 0;
    if (c->x_low == c->x_high) {
        c->x_low -= 0.5;
        c->x_high += 0.5;
    }
    c->log_y = c->log_y && c->y_low > 0;
    if (c->log_y) {
        double low = pow(10, floor(log10(c->y_low))), high = pow(10, ceil(log10(c->y_high)));
        c->y_low = c->y_low >= 5 * low ? 5 * low : c->y_low >= 2 * low ? 2 * low : low;
        c->y_high = c->y_high <= high / 5 ? high / 5 : c->y_high <= high / 2 ? high / 2 : high;
        if (c->y_high <= c->y_low)
            c->y_high = 2 * c->y_low;
    } else {
        if (c->y_low == c->y_high) {
            c->y_low -= 0.5;
            c->y_high += 0.5;
        }
        double step = qy_chart_step(c->y_high - c->y_low, Y_TICKS);
        c->y_low = floor(c->y_low / step) * step;
        c->y_high = ceil(c->y_high / step) * step;
    }
}

static void y_tick(const qy_chart_t *c, double y)
{
    double at = qy_chart_y(c, y);
    fprintf(c->out,
            "<line class=\"grid\" x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\"/>"
            "<text class=\"tick\" x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n",
            left, at, QY_CHART_WIDTH - right, at, left - 8, at + 4, y);
}

static void y_axis(const qy_chart_t *c)
{
    double edge = 1e-9 * (c->y_high - c->y_low);
    if (!c->log_y) {
        double step = qy_chart_step(c->y_high - c->y_low, Y_TICKS);
        for (double y = c->y_low; y <= c->y_high + edge; y += step)
            y_tick(c, fabs(y) < edge ? 0 : y);
        return;
    }
    static const double parts[] = {1, 2, 5};
    int n = log10(c->y_high / c->y_low) > DECADES_BARE ? 1 : 3;
    for (double decade = pow(10, floor(log10(c->y_low))); decade <= c->y_high; decade *= 10)
        for (int i = 0; i < n; i++)
            if (decade * parts[i] >= c->y_low * 0.999 && decade * parts[i] <= c->y_high * 1.001)
                y_tick(c, decade * parts[i]);
}

static void x_axis(const qy_chart_t *c)
{
    double step = qy_chart_step(c->x_high - c->x_low, X_TICKS), edge = 1e-9 * step;
    double base = QY_CHART_HEIGHT - bottom;
    if (c->whole_x && step < 1)
        step = 1;
    for (double x = ceil(c->x_low / step) * step; x <= c->x_high + edge; x += step)
        fprintf(c->out,
                "<text class=\"tick\" x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.6g</text>\n",
                qy_chart_x(c, x), base + 18, fabs(x) < edge ? 0 : x);
    fprintf(c->out, "<line class=\"axis\" x1=\"%.0f\" y1=\"%.0f\" x2=\"%.0f\" y2=\"%.0f\"/>\n",
            left, base, QY_CHART_WIDTH - right, base);
}

void qy_chart_begin(qy_chart_t *c)
{
    settle(c);
    fprintf(c->out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", QY_CHART_WIDTH, QY_CHART_HEIGHT);
    y_axis(c);
    x_axis(c);
    fprintf(c->out, "<text class=\"label\" x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">",
            (left + QY_CHART_WIDTH - right) / 2, QY_CHART_HEIGHT - 6);
    qy_chart_text(c->out, c->x_label);
    fprintf(c->out,
            "</text>\n<text class=\"label\" transform=\"translate(14 %.0f) rotate(-90)\" "
            "text-anchor=\"middle\">",
            (QY_CHART_HEIGHT - bottom + top) / 2);
    qy_chart_text(c->out, c->y_label);
    fputs("</text>\n", c->out);
}

void qy_chart_end(qy_chart_t *c)
{
    fputs("</svg>\n", c->out);
}

static bool is_drawn(const qy_chart_t *c, double x, double y)
{
    return isfinite(x) && isfinite(y) && (!c->log_y || y > 0);
}

void qy_chart_line(qy_chart_t *c, const double *x, const double *y, int64_t n, const char *class)
{
    bool open = false;
    for (int64_t i = 0; i < n; i++) {
        bool drawn = is_drawn(c, x[i], y[i]);
        if (drawn && !open)
            fprintf(c->out, "<polyline class=\"line %s\" points=\"", class);
        if (!drawn && open)
            fputs("\"/>\n", c->out);
        if (drawn)
            fprintf(c->out, "%.1f,%.1f ", qy_chart_x(c, x[i]), qy_chart_y(c, y[i]));
        open = drawn;
    }
    if (open)
        fputs("\"/>\n", c->out);
}

void qy_chart_dots(qy_chart_t *c, const double *x, const double *y, int64_t n, const char *class,
                   const char *label)
{
    for (int64_t i = 0; i < n; i++)
        if (is_drawn(c, x[i], y[i]))
            fprintf(c->out,
                    "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>%s %.6g: "
                    "%.4g</title></circle>\n",
                    class, qy_chart_x(c, x[i]), qy_chart_y(c, y[i]), label, x[i], y[i]);
}
