"""What all tests share."""

import signal

# A shell starts background jobs with interrupts ignored, and children inherit that: the tests that interrupt a
# child would then wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Packages that tests install; their own tests run where they are installed.
collect_ignore = ["example_plugin"]
