"""The ids of a long word: in some texts a single word has a megabyte.

Used by fast.py for words of a hundred bytes or more; for shorter ones its own loop is quicker.

Reads and writes nothing. Next: mapped.py.
"""

import heapq


def apply_merges_long(ids, ranks):
    """The same ids as apply_merges(), in about one step a merge.

    A linked row of symbols, as in training, and for each possible merge its places. A merge makes
    only pairs that were learned later than itself, so each new id is processed once, in order.
    """
    n = len(ids)
    ids, left, right = [*ids, None], list(range(-1, n)), list(range(1, n + 2))
    places = {}
    for i, pair in enumerate(zip(ids, ids[1:])):
        if pair in ranks:
            places.setdefault(ranks[pair], []).append(i)
    todo = list(places)
    heapq.heapify(todo)
    while todo:
        new_id = heapq.heappop(todo)
        for i in sorted(places.pop(new_id)):
            j = right[i]
            if ranks.get((ids[i], ids[j])) != new_id:
                continue  # one of the two was merged in the meantime
            ids[i], ids[j] = new_id, None
            right[i] = right[j]
            left[right[j]] = i
            for k in (left[i], i):
                later = ranks.get((ids[k], ids[right[k]])) if k >= 0 else None
                if later in places:
                    places[later].append(k)
                elif later is not None:
                    places[later] = [k]
                    heapq.heappush(todo, later)
    return [i for i in ids if i is not None]
