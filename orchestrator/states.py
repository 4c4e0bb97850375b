"""The life of a container: one enum, one transition function.

The words are Docker's where the concept is the same (``running``, ``paused``, ``restarting``, ``exited``).
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """Where a container is in its life."""

    PENDING = "pending"  #: known, not started: waits for a dependency or for its turn
    STARTING = "starting"  #: being made
    RUNNING = "running"  #: its program has been exec'd
    PAUSED = "paused"  #: frozen
    STOPPING = "stopping"  #: has been sent its stop signal
    RESTARTING = "restarting"  #: ended, and the restart policy waits for the next attempt
    EXITED = "exited"  #: ended, and nothing will start it again by itself
    FAILED = "failed"  #: could not be started, or given up


class Event(enum.StrEnum):
    """What can happen to a container."""

    START = "start"  #: an attempt begins
    STARTED = "started"  #: its program has been exec'd
    START_FAILED = "start-failed"  #: the attempt failed, and no other follows
    EXIT = "exit"  #: the program ended, and no restart follows
    RETRY = "retry"  #: the program ended or the attempt failed, and a restart follows
    GIVE_UP = "give-up"  #: a dependency failed, or the restart policy ran out of attempts
    STOP = "stop"  #: someone asked it to stop
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RESET = "reset"  #: someone asked for it to be started (again)


class Health(enum.StrEnum):
    """What the health check says; ``none`` when there is none."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


_S, _E = State, Event
TRANSITIONS: dict[tuple[State, Event], State] = {
    (_S.PENDING, _E.START): _S.STARTING,
    (_S.PENDING, _E.GIVE_UP): _S.FAILED,
    (_S.PENDING, _E.STOP): _S.EXITED,
    (_S.STARTING, _E.STARTED): _S.RUNNING,
    (_S.STARTING, _E.START_FAILED): _S.FAILED,
    (_S.STARTING, _E.RETRY): _S.RESTARTING,
    (_S.STARTING, _E.STOP): _S.STOPPING,
    (_S.RUNNING, _E.EXIT): _S.EXITED,
    (_S.RUNNING, _E.RETRY): _S.RESTARTING,
    (_S.RUNNING, _E.GIVE_UP): _S.FAILED,
    (_S.RUNNING, _E.STOP): _S.STOPPING,
    (_S.RUNNING, _E.PAUSE): _S.PAUSED,
    (_S.PAUSED, _E.UNPAUSE): _S.RUNNING,
    (_S.PAUSED, _E.EXIT): _S.EXITED,
    (_S.PAUSED, _E.RETRY): _S.RESTARTING,
    (_S.PAUSED, _E.GIVE_UP): _S.FAILED,
    (_S.PAUSED, _E.STOP): _S.STOPPING,
    (_S.STOPPING, _E.EXIT): _S.EXITED,
    (_S.STOPPING, _E.START_FAILED): _S.EXITED,
    (_S.RESTARTING, _E.START): _S.STARTING,
    (_S.RESTARTING, _E.GIVE_UP): _S.FAILED,
    (_S.RESTARTING, _E.STOP): _S.EXITED,
    (_S.EXITED, _E.RESET): _S.PENDING,
    (_S.FAILED, _E.RESET): _S.PENDING,
    (_S.FAILED, _E.STOP): _S.EXITED,
}


class TransitionError(ValueError):
    """The event cannot happen in that state: a bug in orch, never the user's doing."""


def transition(state: State, event: Event) -> State:
    """The state that follows.

    :raises TransitionError: when the event cannot happen in ``state``.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        text = f"{event.value!r} cannot happen to a container that is {state.value!r}"
        raise TransitionError(text) from None


#: States in which the container has, or is about to have, a process.
ALIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})
#: States from which nothing happens by itself any more.
ENDED = frozenset({State.EXITED, State.FAILED})
