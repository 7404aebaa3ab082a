"""Where a test session keeps what its processes share; light, for the process that only hands out tests."""

FOLDER = "FEDMM_TEST_ANSWERS"  # in the environment, so that processes started by tests find it
