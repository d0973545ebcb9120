/*
 * Plain f64 versions of the kernels' contracts, written from the headers alone and without sharing
 * a line with kernels/. Their backward passes are proven by finite differences
 * (test_reference64.c).
 */
#ifndef QY_TESTS_SUPPORT_REFERENCE64_H
#define QY_TESTS_SUPPORT_REFERENCE64_H

#include <stdint.h>

/* y (M, O) = x (M, I) w (O, I)ᵀ + bias; bias may be NULL. */
void ref_linear_fwd(double *y, const double *x, const double *w, const double *bias, int64_t m,
                    int64_t o, int64_t i);
void ref_linear_bwd_x(double *dx, const double *dy, const double *w, int64_t m, int64_t o,
                      int64_t i);
void ref_linear_bwd_w(double *dw, const double *dy, const double *x, int64_t m, int64_t o,
                      int64_t i);

void ref_rmsnorm_fwd(double *y, double *rstd, const double *x, const double *w, int64_t m,
                     int64_t d, double eps);
void ref_rmsnorm_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                     int64_t m, int64_t d, double eps);
void ref_layernorm_fwd(double *y, double *mean, double *rstd, const double *x, const double *w,
                       const double *b, int64_t m, int64_t d, double eps);
void ref_layernorm_bwd(double *dx, double *dw, double *db, const double *dy, const double *x,
                       const double *w, int64_t m, int64_t d, double eps);

/* x, y (B, T, H, D); cosine, sine (T, D/2). */
void ref_rope(double *y, const double *x, const double *cosine, const double *sine, int backward,
              int64_t b, int64_t t, int64_t h, int64_t d);

typedef struct {
    int64_t b, t, h, n_kv, d, window;
    double scale;
} ref_attention_t;

void ref_attention_fwd(double *o, double *lse, const double *q, const double *k, const double *v,
                       const ref_attention_t *a);
void ref_attention_bwd(double *dq, double *dk, double *dv, const double *d_o, const double *q,
                       const double *k, const double *v, const ref_attention_t *a);

void ref_silu_mul_fwd(double *y, const double *gate, const double *up, int64_t n);
void ref_silu_mul_bwd(double *dgate, double *dup, const double *dy, const double *gate,
                      const double *up, int64_t n);

double ref_mse(double *dy, const double *y, const double *target, int64_t n);

/* Rows of c logits; target −1: not scored. nll (M), dlogits = scale dΣnll. */
void ref_cross_entropy(double *nll, double *dlogits, const double *logits, const int *targets,
                       double scale, int64_t m, int64_t c);

/* KL(teacher ‖ student) of each row and scale times its gradient at the student. */
void ref_kl(double *kl, double *dlogits, const double *student, const double *teacher, double scale,
            int64_t m, int64_t c);

#endif
