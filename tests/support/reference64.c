#include "tests/support/reference64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ref_linear_fwd(double *y, const double *x, const double *w, const double *bias, int64_t m,
                    int64_t o, int64_t i)
{
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < o; c++) {
            double sum = bias ? bias[c] : 0.0;
            for (int64_t k = 0; k < i; k++)
                sum += x[r * i + k] * w[c * i + k];
            y[r * o + c] = sum;
        }
    }
}

void ref_linear_bwd_x(double *dx, const double *dy, const double *w, int64_t m, int64_t o,
                      int64_t i)
{
    memset(dx, 0, (size_t)(m * i) * sizeof *dx);
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < o; c++)
            for (int64_t k = 0; k < i; k++)
                dx[r * i + k] += dy[r * o + c] * w[c * i + k];
}

void ref_linear_bwd_w(double *dw, const double *dy, const double *x, int64_t m, int64_t o,
                      int64_t i)
{
    memset(dw, 0, (size_t)(o * i) * sizeof *dw);
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < o; c++)
            for (int64_t k = 0; k < i; k++)
                dw[c * i + k] += dy[r * o + c] * x[r * i + k];
}

/* Mean and 1/sqrt(variance + eps) of a row; RMSNorm's mean counts as 0. */
static void moments(double *mean, double *rstd, const double *x, int64_t d, double eps,
                    int centered)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; centered && i < d; i++)
        sum += x[i];
    *mean = sum / (double)d;
    for (int64_t i = 0; i < d; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    *rstd = 1.0 / sqrt(squares / (double)d + eps);
}

void ref_rmsnorm_fwd(double *y, double *rstd, const double *x, const double *w, int64_t m,
                     int64_t d, double eps)
{
    for (int64_t r = 0; r < m; r++) {
        double mean;
        moments(&mean, &rstd[r], x + r * d, d, eps, 0);
        for (int64_t i = 0; i < d; i++)
            y[r * d + i] = x[r * d + i] * rstd[r] * w[i];
    }
}

void ref_layernorm_fwd(double *y, double *mean, double *rstd, const double *x, const double *w,
                       const double *b, int64_t m, int64_t d, double eps)
{
    for (int64_t r = 0; r < m; r++) {
        moments(&mean[r], &rstd[r], x + r * d, d, eps, 1);
        for (int64_t i = 0; i < d; i++)
            y[r * d + i] = (x[r * d + i] - mean[r]) * rstd[r] * w[i] + b[i];
    }
}

/*
 * From the chain rule without the shortcut formulas: y_i = w_i h_i + b_i, h = (x − μ) r,
 * ∂r/∂x_j = −r³ (x_j − μ)/d, ∂μ/∂x_j = 1/d.
 */
static void norm_bwd(double *dx, double *dw, double *db, const double *dy, const double *x,
                     const double *w, int64_t m, int64_t d, double eps, int centered)
{
    memset(dw, 0, (size_t)d * sizeof *dw);
    if (db)
        memset(db, 0, (size_t)d * sizeof *db);
    for (int64_t r = 0; r < m; r++) {
        const double *xr = x + r * d, *dyr = dy + r * d;
        double mean, rstd, d_rstd = 0.0, d_mean = 0.0;
        moments(&mean, &rstd, xr, d, eps, centered);
        for (int64_t i = 0; i < d; i++) {
            dw[i] += dyr[i] * (xr[i] - mean) * rstd;
            if (db)
                db[i] += dyr[i];
            d_rstd += dyr[i] * w[i] * (xr[i] - mean);
            d_mean -= dyr[i] * w[i] * rstd;
        }
        for (int64_t i = 0; i < d; i++)
            dx[r * d + i] = dyr[i] * w[i] * rstd -
                            d_rstd * rstd * rstd * rstd * (xr[i] - mean) / (double)d +
                            (centered ? d_mean / (double)d : 0.0);
    }
}

void ref_rmsnorm_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                     int64_t m, int64_t d, double eps)
{
    norm_bwd(dx, dw, NULL, dy, x, w, m, d, eps, 0);
}

void ref_layernorm_bwd(double *dx, double *dw, double *db, const double *dy, const double *x,
                       const double *w, int64_t m, int64_t d, double eps)
{
    norm_bwd(dx, dw, db, dy, x, w, m, d, eps, 1);
}

void ref_rope(double *y, const double *x, const double *cosine, const double *sine, int backward,
              int64_t b, int64_t t, int64_t h, int64_t d)
{
    int64_t half = d / 2;
    for (int64_t row = 0; row < b * t * h; row++) {
        int64_t at = row / h % t * half;
        for (int64_t i = 0; i < half; i++) {
            double c = cosine[at + i], s = backward ? -sine[at + i] : sine[at + i];
            double u = x[row * d + i], v = x[row * d + half + i];
            y[row * d + i] = u * c - v * s;
            y[row * d + half + i] = v * c + u * s;
        }
    }
}

/* The first position that query t sees. */
static int64_t first_seen(const ref_attention_t *a, int64_t t)
{
    return a->window > 0 && t >= a->window ? t - a->window + 1 : 0;
}

/* p[0…t]: probabilities of query (b, t, h) over its keys. Returns log Σ exp. */
static double probabilities(double *p, const double *q, const double *k, const ref_attention_t *a,
                            int64_t b, int64_t t, int64_t h)
{
    int64_t kv = h / (a->h / a->n_kv);
    const double *qr = q + ((b * a->t + t) * a->h + h) * a->d;
    double max = -HUGE_VAL, sum = 0.0;
    for (int64_t j = first_seen(a, t); j <= t; j++) {
        const double *kr = k + ((b * a->t + j) * a->n_kv + kv) * a->d;
        double dot = 0.0;
        for (int64_t i = 0; i < a->d; i++)
            dot += qr[i] * kr[i];
        p[j] = dot * a->scale;
        max = fmax(max, p[j]);
    }
    for (int64_t j = first_seen(a, t); j <= t; j++)
        sum += p[j] = exp(p[j] - max);
    for (int64_t j = first_seen(a, t); j <= t; j++)
        p[j] /= sum;
    return max + log(sum);
}

void ref_attention_fwd(double *o, double *lse, const double *q, const double *k, const double *v,
                       const ref_attention_t *a)
{
    double *p = calloc((size_t)a->t, sizeof *p);
    for (int64_t b = 0; p && b < a->b; b++) {
        for (int64_t h = 0; h < a->h; h++) {
            for (int64_t t = 0; t < a->t; t++) {
                double *to = o + ((b * a->t + t) * a->h + h) * a->d;
                lse[(b * a->h + h) * a->t + t] = probabilities(p, q, k, a, b, t, h);
                memset(to, 0, (size_t)a->d * sizeof *to);
                for (int64_t j = first_seen(a, t); j <= t; j++) {
                    int64_t kv = h / (a->h / a->n_kv);
                    const double *vr = v + ((b * a->t + j) * a->n_kv + kv) * a->d;
                    for (int64_t i = 0; i < a->d; i++)
                        to[i] += p[j] * vr[i];
                }
            }
        }
    }
    free(p);
}

/* The share of query (b, t, h); p and dp are scratch of T numbers. */
static void attention_row_bwd(double *dq, double *dk, double *dv, const double *d_o,
                              const double *q, const double *k, const double *v,
                              const ref_attention_t *a, int64_t b, int64_t t, int64_t h, double *p,
                              double *dp)
{
    int64_t kv = h / (a->h / a->n_kv), q_at = ((b * a->t + t) * a->h + h) * a->d;
    double mean = 0.0;
    probabilities(p, q, k, a, b, t, h);
    for (int64_t j = first_seen(a, t); j <= t; j++) {
        int64_t k_at = ((b * a->t + j) * a->n_kv + kv) * a->d;
        dp[j] = 0.0;
        for (int64_t i = 0; i < a->d; i++) {
            dp[j] += d_o[q_at + i] * v[k_at + i];
            dv[k_at + i] += p[j] * d_o[q_at + i];
        }
        mean += p[j] * dp[j];
    }
    for (int64_t j = first_seen(a, t); j <= t; j++) {
        int64_t k_at = ((b * a->t + j) * a->n_kv + kv) * a->d;
        double ds = a->scale * p[j] * (dp[j] - mean);
        for (int64_t i = 0; i < a->d; i++) {
            dq[q_at + i] += ds * k[k_at + i];
            dk[k_at + i] += ds * q[q_at + i];
        }
    }
}

void ref_attention_bwd(double *dq, double *dk, double *dv, const double *d_o, const double *q,
                       const double *k, const double *v, const ref_attention_t *a)
{
    double *p = calloc(2 * (size_t)a->t, sizeof *p);
    memset(dq, 0, (size_t)(a->b * a->t * a->h * a->d) * sizeof *dq);
    memset(dk, 0, (size_t)(a->b * a->t * a->n_kv * a->d) * sizeof *dk);
    memset(dv, 0, (size_t)(a->b * a->t * a->n_kv * a->d) * sizeof *dv);
    for (int64_t b = 0; p && b < a->b; b++)
        for (int64_t h = 0; h < a->h; h++)
            for (int64_t t = 0; t < a->t; t++)
                attention_row_bwd(dq, dk, dv, d_o, q, k, v, a, b, t, h, p, p + a->t);
    free(p);
}

void ref_silu_mul_fwd(double *y, const double *gate, const double *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
}

void ref_silu_mul_bwd(double *dgate, double *dup, const double *dy, const double *gate,
                      const double *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double e = exp(-gate[i]), sigma = 1.0 / (1.0 + e);
        dup[i] = dy[i] * gate[i] * sigma;
        dgate[i] = dy[i] * up[i] * (sigma + gate[i] * e * sigma * sigma);
    }
}

double ref_mse(double *dy, const double *y, const double *target, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double difference = y[i] - target[i];
        sum += difference * difference;
        dy[i] = 2.0 * difference / (double)n;
    }
    return sum / (double)n;
}

/* log Σ exp of a row. */
static double log_sum_exp(const double *x, int64_t n)
{
    double max = -HUGE_VAL, sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

void ref_cross_entropy(double *nll, double *dlogits, const double *logits, const int *targets,
                       double scale, int64_t m, int64_t c)
{
    for (int64_t r = 0; r < m; r++) {
        const double *x = logits + r * c;
        double total = log_sum_exp(x, c);
        nll[r] = targets[r] < 0 ? 0.0 : total - x[targets[r]];
        for (int64_t i = 0; i < c; i++)
            dlogits[r * c + i] =
                targets[r] < 0 ? 0.0 : scale * (exp(x[i] - total) - (i == targets[r] ? 1.0 : 0.0));
    }
}

void ref_kl(double *kl, double *dlogits, const double *student, const double *teacher, double scale,
            int64_t m, int64_t c)
{
    for (int64_t r = 0; r < m; r++) {
        const double *s = student + r * c, *t = teacher + r * c;
        double s_total = log_sum_exp(s, c), t_total = log_sum_exp(t, c);
        kl[r] = 0.0;
        for (int64_t i = 0; i < c; i++) {
            double p_t = exp(t[i] - t_total);
            kl[r] += p_t * (t[i] - t_total - s[i] + s_total);
            dlogits[r * c + i] = scale * (exp(s[i] - s_total) - p_t);
        }
    }
}
