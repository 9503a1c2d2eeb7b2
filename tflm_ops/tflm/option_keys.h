/* SPDX-License-Identifier: Apache-2.0 */
/* Options of the custom operators: keys of a FlexBuffers map. The one list of them: the C++ reader expands it, the
   Python writer reads this file. Every value is an integer, a vector of integers or, where marked, a text. */
#ifndef RQDKM_TFLM_OPTION_KEYS_H
#define RQDKM_TFLM_OPTION_KEYS_H

/* Of the options as a whole; a reader refuses others. */
#define RQDKM_OPTIONS_VERSION 1

/* clang-format off */
#define RQDKM_OPTION_KEYS(KEY)                                                                                  \
  KEY(version)        /* RQDKM_OPTIONS_VERSION */                                                               \
  KEY(layer)          /* text: the layer's name, for messages */                                                \
  KEY(code)           /* generated layer: its fingerprint, a signed 64-bit integer */                           \
  KEY(kernel)         /* portable operator: which of its kernels, by number */                                  \
  KEY(tile)           /* rows, pixels, resident: as in rqdkm_conv_tile */                                       \
  KEY(band)           /* rows of the result at a time, where a map is below 8 bits */                           \
  KEY(form)           /* of requantization: rqdkm_requantize_form */                                            \
  KEY(bits)           /* per feature map and for the result: 8, 4 or 2 */                                       \
  KEY(input)          /* height, width, channels (windows); 4 extents (pad); outer, reduced, inner (mean) */    \
  KEY(output)         /* height, width, channels */                                                             \
  KEY(filter)         /* height, width, perhaps channels; outputs, inputs (fully connected) */                  \
  KEY(stride)         /* height, width */                                                                       \
  KEY(dilation)       /* height, width */                                                                       \
  KEY(padding)        /* top, left, bottom, right */                                                            \
  KEY(before)         /* elements added in front, per axis (pad) */                                             \
  KEY(after)          /* and behind */                                                                          \
  KEY(value)          /* what is added */                                                                       \
  KEY(zero_points)    /* per feature map, of the weights where they may have one, of the result */              \
  KEY(clamp)          /* least and greatest value of the result */                                              \
  KEY(multipliers)    /* per feature map where they are scaled alone, then of the result */                     \
  KEY(shifts)         /* likewise; > 0 is to the left */                                                        \
  KEY(count)          /* elements of the result, after how many the second operand repeats; batches */          \
  /* RQDKM_MORPH_CONV_2D; "of a layer" is per layer of every kernel, in order */                                 \
  KEY(kernels)        /* layers of every kernel */                                                              \
  KEY(safe)           /* the kernel that runs until one is selected */                                          \
  KEY(ops)            /* of a layer: 0 convolution, 1 depthwise */                                              \
  /* portable: */                                                                                               \
  KEY(constants)      /* of a layer: how many */                                                                \
  KEY(steps)          /* of a layer: a map of the options of its operator */                                    \
  /* in a model file, before any export: */                                                                     \
  KEY(strides)        /* of a layer: height, width */                                                           \
  KEY(dilations)      /* of a layer: height, width */                                                           \
  KEY(valid)          /* of a layer: 1 without padding ("VALID"), 0 with ("SAME") */                            \
  KEY(activations)    /* of a layer: TFLite's number, 0 none, 1 relu, 3 relu6 */                                \
  KEY(inner_scales)   /* of a layer that another one follows: the bits of its result's scale, a float32 */      \
  KEY(inner_zeros)    /* likewise: zero point */
/* clang-format on */

#endif
