// What every kernel uses: types, conversions, several values at once, comparisons, reductions.
#pragma once

#include "common/types.h"
#include "common/values.h"
#include "common/compare.h"
#include "common/reduce.h"
