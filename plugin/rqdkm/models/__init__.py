"""Models in: files to verified graphs and Relay modules, data, quantization, and the reference to compare with.

``zoo`` test models · ``load`` file -> :class:`~rqdkm.models.load.LoadedModel` · ``summary`` what ``rqdkm inspect``
shows · ``data`` calibration and evaluation data · ``quantize`` float -> TFLite int8 · ``oracle`` TFLite's reference
kernels in a process of their own · ``reference`` the same arithmetic in NumPy, operator by operator.
"""
