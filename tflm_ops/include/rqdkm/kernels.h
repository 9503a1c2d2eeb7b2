/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of the library. */
#ifndef RQDKM_KERNELS_H
#define RQDKM_KERNELS_H

#include "rqdkm/convolution.h"
#include "rqdkm/depthwise.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/pooling.h"

#endif
