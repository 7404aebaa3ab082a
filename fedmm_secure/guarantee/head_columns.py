"""Columns of the features that name no id, and their public bins: what a head is about, in every market and run."""

from __future__ import annotations

BINS = 32
SCALE = 2**12  # integer units of a gradient of 1
PER_USER = ("ease", "knn", "svd32")
NUMBERS = (
    "svd8", "svd16", "svd32", "svd64", "svd32_cosine", "ease", "knn", "knn_mean",
    "item_count", "user_count",
    "item_mean_time", "item_first_time", "item_last_time", "item_recent_count",
    "user_last_time", "user_mean_time",
    "item_mean_since_user_last", "item_mean_since_user_mean", "item_first_since_user_last",
)  # fmt: skip
# numbers that have one zero and one unit everywhere: shares of a market's time span, and cosines
ABSOLUTE = (
    "item_mean_since_user_last", "item_mean_since_user_mean", "item_first_since_user_last",
    "item_last_time", "user_last_time", "svd32_cosine", "ease", "knn_mean",
)  # fmt: skip
EVIDENCE = ("item_rows", "user_rows", "rows_of_an_item", "known_users")
NAMES = (*NUMBERS, *(f"{name}_of_user" for name in PER_USER), *(f"{name}_itself" for name in ABSOLUTE), *EVIDENCE)
