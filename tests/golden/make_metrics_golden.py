"""Write metrics_golden.json: metrics computed the slow way, in exact fractions where possible.

Nothing of slslib is used. Each curve is built by removing the lowest score one at a time. Run it
from the repository root: ``python tests/golden/make_metrics_golden.py``.
"""

import json
import math
import random
from fractions import Fraction
from pathlib import Path


def curve(bonafide, spoof):
    """Points (FRR, FAR, threshold), rejecting one more trial each, bona fide first in ties."""
    trials = sorted([(x, 0) for x in bonafide] + [(x, 1) for x in spoof])
    points = [(Fraction(0), Fraction(1), trials[0][0] - 0.001)]
    for k in range(1, len(trials) + 1):
        n_spoof = sum(kind for _, kind in trials[:k])
        frr, far = Fraction(k - n_spoof, len(bonafide)), 1 - Fraction(n_spoof, len(spoof))
        points.append((frr, far, trials[k - 1][0]))
    return points


def grouped(points):
    """Keep the points that a threshold can reach."""
    ends = [k for k in range(1, len(points)) if k == len(points) - 1
            or points[k + 1][2] != points[k][2]]  # fmt: skip
    return [points[0], *(points[k] for k in ends)]


def eer(points):
    # Python's min returns the first of equals, as argmin does.
    frr, far, threshold = min(points, key=lambda p: abs(float(p[0]) - float(p[1])))
    return float((frr + far) / 2), threshold


def weights(target, nontarget, spoof):
    threshold = eer(curve(target, nontarget))[1]
    miss = Fraction(sum(x < threshold for x in target), len(target))
    fa = Fraction(sum(x >= threshold for x in nontarget), len(nontarget))
    fa_spoof = Fraction(sum(x >= threshold for x in spoof), len(spoof))
    p_spoof = Fraction(5, 100)
    p_target, p_nontarget = (1 - p_spoof) * Fraction(99, 100), (1 - p_spoof) * Fraction(1, 100)
    c0 = p_target * miss + 10 * p_nontarget * fa
    return c0, p_target - c0, 10 * p_spoof * fa_spoof


def cost(points, c0, c1, c2):
    return float(min(c0 + c1 * frr + c2 * far for frr, far, _ in points) / (c0 + min(c1, c2)))


def act_dcf(bonafide, spoof):
    threshold = -math.log(0.95 / 0.5)
    frr = Fraction(sum(x < threshold for x in bonafide), len(bonafide))
    far = Fraction(sum(x >= threshold for x in spoof), len(spoof))
    return float((Fraction(95, 100) * frr + Fraction(1, 2) * far) / Fraction(1, 2))


def cllr(bonafide, spoof):
    def bits(llrs):
        return math.fsum(math.log2(1 + math.exp(-x)) for x in llrs) / len(llrs)

    return (bits(bonafide) + bits([-x for x in spoof])) / 2


def min_cllr(bonafide, spoof):
    """Pool adjacent violators by hand, on classes of equal weight."""
    blocks = []
    for x in sorted({*bonafide, *spoof}):
        share_b = Fraction(bonafide.count(x), len(bonafide))
        share_s = Fraction(spoof.count(x), len(spoof))
        blocks.append((share_b, share_s))
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            (b2, s2), (b1, s1) = blocks.pop(), blocks.pop()
            blocks.append((b1 + b2, s1 + s2))
    total = 0.0
    for share_b, share_s in blocks:
        for share in (share_b, share_s):
            if share:
                total -= float(share) * math.log2(share / (share_b + share_s))
    return total / 2


def case(name, bonafide, spoof, asv):
    points = curve(bonafide, spoof)
    c0, c1, c2 = weights(*asv)
    ties = eer(grouped(points))
    return {
        "name": name,
        "bonafide": bonafide,
        "spoof": spoof,
        "asv": asv,
        "eer_official": eer(points),
        "eer_tie_aware": ties,
        "weights": [float(c) for c in (c0, c1, c2)],
        "min_tdcf_2019": cost(points, 0, c1, c2),
        "min_tdcf_2021": cost(points, c0, c1, c2),
        "min_dcf": cost(points, 0, Fraction(95, 100), Fraction(1, 2)),
        "act_dcf": act_dcf(bonafide, spoof),
        "cllr": cllr(bonafide, spoof),
        "min_cllr": min_cllr(bonafide, spoof),
    }


def main():
    rng = random.Random(20240901)

    def draw(n, mean, scale=1.0, digits=6):
        return [round(rng.gauss(mean, scale), digits) for _ in range(n)]

    asv = [draw(60, 4, 2), draw(150, -3, 2), draw(90, 3, 2)]
    cases = [
        case("overlapping", draw(40, 1), draw(170, -1), asv),
        case("few bona fide", draw(3, 0.5), draw(200, -0.5), asv),
        case("many ties", draw(80, 0.5, 1, 0), draw(120, -0.5, 1, 0), asv),
        case("perfect", [1.0, 2.0, 3.0], [-1.0, 0.0], asv),
        case("inverted", [-1.0, 0.0], [1.0, 2.0, 3.0], asv),
        case("constant", [0.5] * 4, [0.5] * 6, asv),
        case("one each", [0.1], [0.2], asv),
        case(
            "weak verification", draw(50, 2), draw(70, 0), [draw(40, 0), draw(40, 0), draw(40, 0)]
        ),
    ]
    path = Path(__file__).with_name("metrics_golden.json")
    path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
