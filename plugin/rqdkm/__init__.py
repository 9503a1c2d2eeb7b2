"""rqdkm: trained CNN in, measured STM32F407 firmware out."""

__version__ = "0.1.0"
