"""The names that Vast writes for GPUs, because its search knows whole names only and people ask for parts of them."""

from collections.abc import Iterable

from dumont.providers.fitting import has_words, plain_name

_NAMES = """
RTX 5090, RTX 5080, RTX 5070 Ti, RTX 5070, RTX 5060 Ti, RTX 5060, RTX 4090, RTX 4090D, RTX 4080S, RTX 4080,
RTX 4070S Ti, RTX 4070 Ti, RTX 4070S, RTX 4070, RTX 4060 Ti, RTX 4060, RTX 3090 Ti, RTX 3090, RTX 3080 Ti,
RTX 3080, RTX 3070 Ti, RTX 3070, RTX 3060 Ti, RTX 3060, RTX 2080 Ti, Titan RTX, Titan V, Titan Xp, GTX 1080 Ti,
GTX 1080, GTX 1070 Ti, GTX 1070, RTX PRO 6000 WS, RTX PRO 6000 S, RTX PRO 6000 Max-Q, RTX PRO 5000,
RTX PRO 4500, RTX PRO 4000, RTX 6000Ada, RTX 5880Ada, RTX 5000Ada, RTX 4500Ada, RTX 4000Ada, RTX 4000 SFF Ada,
RTX 2000Ada, RTX A6000, RTX A5000, RTX A4500, RTX A4000, RTX A2000, Q RTX 8000, Q RTX 6000, B300, B200, GH200,
H200, H200 NVL, H100 SXM, H100 NVL, H100 PCIE, A100 SXM4, A100 PCIE, A800 PCIE, A30, L40S, L40, L4, A40, A10,
A10G, A16, Tesla T4, Tesla V100, Tesla P100, Tesla P40, MI355X, MI350X, MI325X, MI300X, MI250X, MI250, MI210,
MI100, RX 7900 XTX, RX 7900 XT, PRO W7900
"""
GPU_NAMES = tuple(name.strip() for name in _NAMES.split(","))
"""Source: the `gpu_name` of offers in public snapshots of 2025 and 2026. One that is missing is asked for as sent."""


def names_for(wishes: Iterable[str], *, exact: bool) -> list[str]:
    """Return the names under which Vast may list what is wished for; an unknown wish stands for itself."""
    found: dict[str, None] = {}
    for wish in wishes:
        plain = plain_name(wish)
        known = [name for name in GPU_NAMES if (plain_name(name) == plain if exact else has_words(name, wish))]
        found |= dict.fromkeys(known or [" ".join(wish.replace("_", " ").split())])
    return list(found)
