"""What the tests stand on; nothing here is tested code and nothing imports the tested code's kernel room.

In reading order: ``requirements`` (what a test needs of the host), ``sandbox`` (the private namespaces),
``leaks`` (what was left behind), ``waiting`` (states, never sleeps), ``cli`` (one orch instance, driven as
a user drives it).
"""
