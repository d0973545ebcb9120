#include "kernels/quant.h"

#include "base/pack.h"
#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_quant_start(const qy_device_t *dev, qy_tensor_t *s, qy_tensor_t *z,
                           const qy_tensor_t *w, int bits, int symmetric, int least_squares,
                           qy_error_t *err)
{
    static const char op[] = "quant_start";
    QY_TRY(qy_check_given(op, "w", w, f32, err));
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    QY_TRY(qy_check_groups(op, o, i, "s", s, bits, err));
    QY_TRY(qy_check_matrix(op, "z", z, f32, o, qy_tensor_cols(s), err));
    return dev->ops->quant_start(dev, s, z, w, bits, symmetric, least_squares, err);
}

qy_status_t qy_fake_quant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *w,
                              const qy_tensor_t *s, const qy_tensor_t *z, int bits, qy_error_t *err)
{
    static const char op[] = "fake_quant_fwd";
    QY_TRY(qy_check_given(op, "w", w, f32, err));
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    QY_TRY(qy_check_groups(op, o, i, "s", s, bits, err));
    QY_TRY(qy_check_matrix(op, "z", z, f32, o, qy_tensor_cols(s), err));
    QY_TRY(qy_check_matrix(op, "w_hat", w_hat, QY_TYPE(dev->compute), o, i, err));
    QY_TRY(qy_check_apart(op, "w_hat", w_hat, "w", w, err));
    return dev->ops->fake_quant_fwd(dev, w_hat, w, s, z, bits, err);
}

qy_status_t qy_fake_quant_bwd(const qy_device_t *dev, qy_tensor_t *dw, qy_tensor_t *ds,
                              qy_tensor_t *dz, const qy_tensor_t *dw_hat, const qy_tensor_t *w,
                              const qy_tensor_t *s, const qy_tensor_t *z, int bits, qy_error_t *err)
{
    static const char op[] = "fake_quant_bwd";
    QY_TRY(qy_check_given(op, "w", w, f32, err));
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    QY_TRY(qy_check_groups(op, o, i, "s", s, bits, err));
    int64_t n_groups = qy_tensor_cols(s);
    QY_TRY(qy_check_matrix(op, "z", z, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "dw_hat", dw_hat, f32 | QY_TYPE(dev->compute), o, i, err));
    QY_TRY(qy_check_matrix(op, "dw", dw, f32, o, i, err));
    QY_TRY(qy_check_matrix(op, "ds", ds, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "dz", dz, f32, o, n_groups, err));
    QY_TRY(qy_check_apart(op, "dw", dw, "w", w, err));
    if (dw_hat->dtype != QY_F32)
        QY_TRY(qy_check_apart(op, "dw", dw, "dw_hat", dw_hat, err));
    return dev->ops->fake_quant_bwd(dev, dw, ds, dz, dw_hat, w, s, z, bits, err);
}

qy_status_t qy_quant_freeze(const qy_device_t *dev, qy_tensor_t *codes, qy_tensor_t *s16,
                            qy_tensor_t *zeros, const qy_tensor_t *w, const qy_tensor_t *s,
                            const qy_tensor_t *z, int bits, qy_error_t *err)
{
    static const char op[] = "quant_freeze";
    QY_TRY(qy_check_given(op, "w", w, f32, err));
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    QY_TRY(qy_check_groups(op, o, i, "s", s, bits, err));
    int64_t n_groups = qy_tensor_cols(s);
    QY_TRY(qy_check_matrix(op, "z", z, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "codes", codes, QY_TYPE(QY_U32), o, qy_pack_words(i, bits), err));
    QY_TRY(qy_check_matrix(op, "s16", s16, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "zeros", zeros, QY_TYPE(QY_U8), o, n_groups, err));
    return dev->ops->quant_freeze(dev, codes, s16, zeros, w, s, z, bits, err);
}

qy_status_t qy_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *codes,
                           const qy_tensor_t *s, const qy_tensor_t *zeros, int bits, int round_f16,
                           qy_error_t *err)
{
    static const char op[] = "dequant_fwd";
    QY_TRY(qy_check_given(op, "w_hat", w_hat, QY_TYPE(dev->compute), err));
    int64_t o = qy_tensor_rows(w_hat), i = qy_tensor_cols(w_hat);
    QY_TRY(qy_check_groups(op, o, i, "s", s, bits, err));
    QY_TRY(qy_check_matrix(op, "codes", codes, QY_TYPE(QY_U32), o, qy_pack_words(i, bits), err));
    QY_TRY(qy_check_matrix(op, "zeros", zeros, QY_TYPE(QY_U8), o, qy_tensor_cols(s), err));
    return dev->ops->dequant_fwd(dev, w_hat, codes, s, zeros, bits, round_f16, err);
}

qy_status_t qy_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds, const qy_tensor_t *dw_hat,
                           const qy_tensor_t *codes, const qy_tensor_t *zeros, int bits,
                           int accumulate, qy_error_t *err)
{
    static const char op[] = "dequant_bwd";
    QY_TRY(qy_check_given(op, "dw_hat", dw_hat, f32 | QY_TYPE(dev->compute), err));
    int64_t o = qy_tensor_rows(dw_hat), i = qy_tensor_cols(dw_hat);
    QY_TRY(qy_check_groups(op, o, i, "ds", ds, bits, err));
    QY_TRY(qy_check_matrix(op, "codes", codes, QY_TYPE(QY_U32), o, qy_pack_words(i, bits), err));
    QY_TRY(qy_check_matrix(op, "zeros", zeros, QY_TYPE(QY_U8), o, qy_tensor_cols(ds), err));
    return dev->ops->dequant_bwd(dev, ds, dw_hat, codes, zeros, bits, accumulate, err);
}

/* What both directions share: groups of (o, i) weights in any number. */
static qy_status_t check_clusters(const char *op, int64_t o, int64_t i, const qy_tensor_t *codes,
                                  const char *s_name, const qy_tensor_t *s,
                                  const qy_tensor_t *zeros, int bits, qy_error_t *err)
{
    if (bits < 2 || bits > 8)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, expected 2 to 8", op, bits);
    QY_TRY(qy_check_given(op, s_name, s, f32, err));
    QY_TRY(qy_check_matrix(op, s_name, s, f32, o, qy_tensor_cols(s), err));
    QY_TRY(qy_check_matrix(op, "zeros", zeros, QY_TYPE(QY_I32), o, qy_tensor_cols(s), err));
    return qy_check_matrix(op, "codes", codes, QY_TYPE(QY_U32), o, qy_pack_words(i, bits), err);
}

qy_status_t qy_cluster_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat,
                                   const qy_tensor_t *codes, const qy_tensor_t *s,
                                   const qy_tensor_t *zeros, const qy_tensor_t *group, int bits,
                                   qy_error_t *err)
{
    static const char op[] = "cluster_dequant_fwd";
    QY_TRY(qy_check_given(op, "w_hat", w_hat, QY_TYPE(dev->compute), err));
    int64_t o = qy_tensor_rows(w_hat), i = qy_tensor_cols(w_hat);
    QY_TRY(check_clusters(op, o, i, codes, "s", s, zeros, bits, err));
    QY_TRY(qy_check_count(op, "group", group, QY_TYPE(QY_I32), i, err));
    return dev->ops->cluster_dequant_fwd(dev, w_hat, codes, s, zeros, group, bits, err);
}

qy_status_t qy_cluster_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds,
                                   const qy_tensor_t *dw_hat, const qy_tensor_t *codes,
                                   const qy_tensor_t *zeros, const qy_tensor_t *offsets, int bits,
                                   int accumulate, qy_error_t *err)
{
    static const char op[] = "cluster_dequant_bwd";
    QY_TRY(qy_check_given(op, "dw_hat", dw_hat, f32 | QY_TYPE(dev->compute), err));
    int64_t o = qy_tensor_rows(dw_hat), i = qy_tensor_cols(dw_hat);
    QY_TRY(check_clusters(op, o, i, codes, "ds", ds, zeros, bits, err));
    QY_TRY(qy_check_count(op, "offsets", offsets, QY_TYPE(QY_I32), qy_tensor_cols(ds) + 1, err));
    return dev->ops->cluster_dequant_bwd(dev, ds, dw_hat, codes, zeros, offsets, bits, accumulate,
                                         err);
}
