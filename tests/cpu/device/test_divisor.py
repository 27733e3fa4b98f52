"""Many numbers divided by one: as a division gives it, to the last bit but for rare cases, whatever the divisor."""

import os
import subprocess
from pathlib import Path

from modelnew.runtime.toolchain import CPU_FLAGS

DEVICE = Path(__file__).parents[3] / "src" / "modelnew" / "device"
PROGRAM = r"""
#include <cstdio>
#include <random>
#include "common/divisor.h"

// 0: the same value and sign, or both NaN; otherwise the distance in units of the last place
static uint32_t apart(float a, float b) {
  if (a != a || b != b) return (a != a) == (b != b) ? 0 : ~0u;
  const int32_t i = mn::bit_cast<int32_t>(a), j = mn::bit_cast<int32_t>(b);
  if ((i < 0) != (j < 0)) return ~0u;
  return static_cast<uint32_t>(i > j ? i - j : j - i);
}

int main() {
  std::mt19937 random(5);
  const float special[] = {0.0f, 1.0f, 3.0f, 0x1p-149f, 0x1p-126f, 0x1.fffffep127f, INFINITY, NAN, 0x1p100f, 0x1p-100f,
                           0x1.8p126f, 0x1.000002p0f, 0x1p-101f};
  uint32_t worst = 0;
  long differ = 0, all = 0;
  const auto check = [&](float a, float d) {
    const uint32_t ulps = apart(a / mn::divisor(d), a / d);
    worst = ulps > worst ? ulps : worst;
    differ += ulps > 0;
    ++all;
    if (ulps > 1) printf("%a / %a: %a, not %a\n", a, d, a / mn::divisor(d), a / d);
  };
  for (float a : special)
    for (float d : special)
      for (int signs = 0; signs < 4; ++signs) check(signs & 1 ? -a : a, signs & 2 ? -d : d);
  for (int i = 0; i < 2000000; ++i)
    check(mn::bit_cast<float>(static_cast<uint32_t>(random())), mn::bit_cast<float>(static_cast<uint32_t>(random())));
  printf("%u %ld %ld\n", worst, differ, all);
}
"""


def test_quotients_are_a_divisions(tmp_path: Path) -> None:
    source = tmp_path / "divisor.cpp"
    source.write_text(PROGRAM)
    command = [os.environ.get("CXX", "g++"), *CPU_FLAGS, f"-I{DEVICE}", str(source), "-o", str(tmp_path / "divisor")]
    subprocess.run(command, check=True)
    said = subprocess.run([tmp_path / "divisor"], capture_output=True, text=True, check=True).stdout
    *wrong, last = said.splitlines()
    worst, differ, count = map(int, last.split())
    assert not wrong, said[:2000]
    assert worst <= 1 and differ <= count / 100
