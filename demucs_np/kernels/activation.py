"""GELU, sigmoid, tanh and the exponential, elementwise, in forms that LLVM turns into vector code: no branch, no call of libm.

The polynomials are least-squares fits on Chebyshev points, reweighted towards equal ripple, in float64.
"""

from __future__ import annotations

import numpy as np

from ._jit import exact
from .lanes import power_of_two, where

_f = np.float32

_ROUND = _f(1.5 * 2**23)  # adding and subtracting it rounds to an integer, which stands in the low bits of the sum
_LOG2E = _f(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)  # 9 bits, and the rest: n * high is exact
_E2, _E3, _E4, _E5, _E6 = _f(0.49999991), _f(0.16666420), _f(0.041668224), _f(0.0083748223), _f(0.0013836834)  # e^r, |r| <= ln(2)/2
_T1, _T2, _T3 = _f(0.693147206), _f(0.240226469), _f(0.0555032878)  # 2^r, |r| <= 1/2
_T4, _T5, _T6 = _f(0.00961848897), _f(0.00133999312), _f(0.000153458073)
# log2 of the normal tail Q(t) = erfc(t/sqrt(2))/2 on [0, 8], weighted by t*Q(t)
_Q0, _Q1, _Q2, _Q3 = _f(-0.9999999403953552), _f(-1.1511067152023315), _f(-0.45920225977897644), _f(-0.052491433918476105)
_Q4, _Q5, _Q6, _Q7 = _f(0.007011209148913622), _f(-4.252653889125213e-05), _f(-0.00026598211843520403), _f(7.552929309895262e-05)
_Q8, _Q9, _Q10, _Q11 = _f(-1.170214090961963e-05), _f(1.0971768915624125e-06), _f(-5.819070381107849e-08), _f(1.3405313525893803e-09)
# (tanh(x)/x - 1)/x^2 in powers of x^2 for |x| <= 0.625, weighted for the relative error of tanh
_H0, _H1, _H2 = _f(-0.3333328068256378), _f(0.13331441581249237), _f(-0.05373971536755562)
_H3, _H4, _SMALL, _TWO = _f(0.0206390842795372), _f(-0.005704985000193119), _f(0.625), _f(2)
_HALF, _ONE, _ZERO, _TAIL = _f(0.5), _f(1), _f(0), _f(8)
_LOWEST, _HIGHEST, _LOWEST2 = _f(-87.3), _f(88.3), _f(-126)


@exact
def exp(x):
    """e^x, within 1.5 units in the last place for -87.3 <= x <= 88.3 and held at the ends; NaN stays NaN."""
    x = where(x < _LOWEST, _LOWEST, x)
    x = where(x > _HIGHEST, _HIGHEST, x)
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_E6 * r + _E5) * r + _E4) * r + _E3) * r + _E2) * (r * r) + r + _ONE
    return p * power_of_two(shifted)


@exact
def exp2(x):
    """2^x, within 1 unit in the last place for -126 <= x <= 127, held at the lower end; NaN stays NaN."""
    x = where(x < _LOWEST2, _LOWEST2, x)
    shifted = x + _ROUND
    r = x - (shifted - _ROUND)
    p = (((((_T6 * r + _T5) * r + _T4) * r + _T3) * r + _T2) * r + _T1) * r + _ONE
    return p * power_of_two(shifted)


@exact
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return _ONE / (_ONE + exp(-x))


@exact
def tanh(x):
    """Within 2 units in the last place: a polynomial near zero, 1 - 2/(e^2|x| + 1) beyond; NaN stays NaN."""
    t = abs(x)
    s = x * x
    near = x + x * s * (_H0 + s * (_H1 + s * (_H2 + s * (_H3 + s * _H4))))
    far = _ONE - _TWO / (exp(_TWO * t) + _ONE)
    far = where(x < _ZERO, -far, far)
    return where(t < _SMALL, near, far)


@exact
def gelu(x):
    """x * Phi(x), the exact (erf) form, from the normal tail Q(|x|) = 2^polynomial: x > 0: x (1 - Q), else x Q.

    Absolute error against float64 below that of x/2 (1 + erf(x/sqrt(2))) in float32; gelu(-inf) is NaN there and here.
    """
    t = abs(x)
    t = where(t > _TAIL, _TAIL, t)
    p = _Q7 + t * (_Q8 + t * (_Q9 + t * (_Q10 + t * _Q11)))
    p = _Q0 + t * (_Q1 + t * (_Q2 + t * (_Q3 + t * (_Q4 + t * (_Q5 + t * (_Q6 + t * p))))))
    q = exp2(p)
    q = where(t >= _TAIL, _ZERO, q)
    return x * where(x > _ZERO, _ONE - q, q)
