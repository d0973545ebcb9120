/*
 * Inline SVG for the report: a plot with axes, lines and dots; colours and fonts are the page's
 * style sheet's, by class. Text is escaped here and nowhere else.
 */
#ifndef QY_COORDINATOR_CHART_H
#define QY_COORDINATOR_CHART_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    FILE *out;
    double x_low, x_high, y_low, y_high; /* of the data */
    bool log_y, whole_x;                 /* decades; ticks only at whole numbers */
    const char *x_label, *y_label;
} qy_chart_t;

enum { QY_CHART_WIDTH = 560, QY_CHART_HEIGHT = 240 };

/* Opens the <svg>, rounds the ranges to ticks, and draws grid, ticks and labels. A range that is
 * empty or not finite becomes one around it. */
void qy_chart_begin(qy_chart_t *chart);
void qy_chart_end(qy_chart_t *chart);

/* Place of a value in the drawing. */
double qy_chart_x(const qy_chart_t *chart, double x);
double qy_chart_y(const qy_chart_t *chart, double y);

/* Points that are not finite are left out; a line is broken there. */
void qy_chart_line(qy_chart_t *chart, const double *x, const double *y, int64_t n,
                   const char *class);
/* label: what a pointer over it shows, with the value. */
void qy_chart_dots(qy_chart_t *chart, const double *x, const double *y, int64_t n,
                   const char *class, const char *label);

/* Text for HTML. */
void qy_chart_text(FILE *out, const char *text);

/* "1:02:03", "2:03", "4.2 s"; "–" where it is not known. */
const char *qy_chart_seconds(double seconds, char text[32]);

/* The step between ticks of about n in a range: 1, 2 or 5 times a power of ten. */
double qy_chart_step(double range, int n);

#endif
