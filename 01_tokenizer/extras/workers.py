"""Work shared by several processes: results in order, and an error if a process dies.

Used by fast.py, pieces.py and 02_data. Reads and writes nothing. Next: fast.py.
"""

import multiprocessing
import signal
from collections import deque

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def mask(how):
    """Block Ctrl-C and SIGTERM, or unblock them, as `how` says; Windows can't."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(getattr(signal, how), SIGNALS)


def serve(function, pipe, others):
    """The loop of a worker of parallel(): receive an item, send its result, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mask("SIG_UNBLOCK")
    for end in others:
        end.close()
    try:
        while True:
            try:
                answer = function(pipe.recv()), None
            except (ValueError, NotImplementedError) as error:  # the latter: an exercise
                answer = None, error
            pipe.send(answer)
    except (EOFError, OSError):
        pass  # the parent has gone


def parallel(function, items, workers):
    """map(function, items), in order, on `workers` processes; each holds one item at a time.

    `function` and items must be picklable, as some systems don't fork processes but start new ones.
    ValueError if `function` raises one, or if the system can start no more processes.
    """
    if workers < 1:
        raise ValueError(f"the number of workers is {workers}; it must be 1 or more")
    if workers == 1:
        yield from map(function, items)
        return
    forked = multiprocessing.get_start_method() == "fork"
    idle, busy, processes = deque(), deque(), []

    def start():
        here, there = multiprocessing.Pipe()
        # A forked worker inherits our ends of all pipes: unless closed, they hide that we ended.
        others = [here, *idle, *busy] if forked else []
        process = multiprocessing.Process(target=serve, args=(function, there, others), daemon=True)
        # A worker starts with our signal handlers: block signals until it has set its own.
        mask("SIG_BLOCK")
        try:
            process.start()
            processes.append(process)
        finally:
            mask("SIG_UNBLOCK")
        there.close()
        idle.append(here)

    def result():
        answer, error = busy[0].recv()
        idle.append(busy.popleft())
        if error:
            raise error
        return answer

    try:
        for item in items:
            if not idle and len(processes) < workers:
                try:
                    start()
                except OSError as error:
                    raise ValueError(f"worker process {len(processes) + 1} of {workers} can't be "
                                     f"started ({error}); use fewer workers") from None
            if not idle:
                yield result()
            idle[0].send(item)
            busy.append(idle.popleft())
        while busy:
            yield result()
    except (EOFError, ConnectionError):
        raise ValueError("a worker process died (out of memory?); use fewer workers") from None
    finally:
        for process in processes:
            process.terminate()
            process.join()
