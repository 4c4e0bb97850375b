"""Attacks on the host from inside a container, and a twin of each with the guard switched off.

An attack is performed in a *default* container, whose manifest says nothing, and must fail. Its twin is the same
attack where a manifest's option, or a change to the launch program, has taken the guard away: it must succeed, so that
we know the attack is one. Twins only harm what the test made itself. Where no harmless twin can be, the errno and its
cause are checked. Where two guards cover one attack, each is switched off alone, too.
"""
