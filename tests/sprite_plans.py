"""Scripted players of the sprite tasks: searches on the true state, so that tasks can be solved.

How often they succeed, among 3 to 6 objects:

    python tests/sprite_plans.py 1000
"""

import sys
from math import dist

import numpy as np

STEPS = ((0, -0.05), (-0.05, 0), (0, 0.05), (0.05, 0))
CONTACT = 0.15
EPS = 1e-4  # plans keep clear of what the last bit decides


def rows(state):
    """One line per sprite: x, y, red, green, blue, square, ellipse, heart."""
    return np.asarray(state, dtype=np.float64).reshape(-1, 8)


def blue_square(state):
    """Its number among the sprites."""
    (number,) = np.flatnonzero((rows(state)[:-1, 2:6] == [0, 0, 1, 1]).all(1))
    return int(number)


def unlike_the_others(state):
    """The number of the object that differs from all others, which are equal."""
    objects = [tuple(row[2:]) for row in rows(state)[:-1]]
    (number,) = [i for i, one in enumerate(objects) if objects.count(one) == 1]
    return number


def unlike_in_one_property(state):
    """The number of the object that has another colour, or shape, than all others have."""
    found = []
    for columns in (slice(2, 5), slice(5, 8)):
        values = [tuple(row[columns]) for row in rows(state)[:-1]]
        counts = [values.count(value) for value in values]
        if sorted(counts)[1:] == [len(values) - 1] * (len(values) - 1):
            found.append(counts.index(1))
    (number,) = found
    return number


def solve(name, state):
    """Actions that solve the task of this id, or None."""
    players = {
        "SpriteGoal": lambda state: reach(state, blue_square(state)),
        "SpritePush": push,
        "SpriteObjectComparison": lambda state: reach(state, unlike_the_others(state)),
        "SpritePropertyComparison": lambda state: reach(state, unlike_in_one_property(state)),
    }
    return players[name.removeprefix("GenesisRL/").removesuffix("-v0")](state)


def reach(state, goal):
    """Actions that take the agent to an object without touching another; None if walled in."""
    places = rows(state)[:, :2].tolist()

    def step(agent, action):
        ahead = _ahead(agent, action)
        touched = [i for i, place in enumerate(places[:-1]) if dist(ahead, place) < CONTACT]
        if not touched:
            return ahead, False
        return (ahead, True) if touched == [goal] else (None, False)

    return _search(tuple(places[-1]), step)


def push(state):
    """Actions that push the blue square to the goal, touching nothing else; None if walled in."""
    places = [tuple(place) for place in rows(state)[:, :2].tolist()]
    square = blue_square(state)
    goal, agent = places[0], places[-1]
    others = [place for i, place in enumerate(places[1:-1], start=1) if i != square]

    def allowed(place):
        inside = min(place) > 0.25 - EPS and max(place) < 0.75 + EPS
        return inside and all(dist(place, other) > CONTACT + EPS for other in others)

    def step(situation, action):
        agent, thing = situation[:2], situation[2:]
        ahead = _ahead(agent, action)
        if dist(ahead, thing) < CONTACT:
            moved = (thing[0] + STEPS[action][0], thing[1] + STEPS[action][1])
            if not (min(moved) >= 0.25 and max(moved) <= 0.75 and allowed(moved)):
                return None, False
            thing = moved
        return (*ahead, *thing) if allowed(ahead) else None, dist(thing, goal) < CONTACT - EPS

    return _search((*agent, *places[square]), step)


def _ahead(agent, action):
    moved = (agent[0] + STEPS[action][0], agent[1] + STEPS[action][1])
    return tuple(min(max(x, 0.25), 0.75) for x in moved)


def _search(start, step):
    """Breadth first; `step` maps a situation and an action to the next, or None, and if it ends."""
    paths, frontier = {_cell(start): []}, [start]
    while frontier:
        ahead = []
        for situation in frontier:
            for action in range(4):
                reached, solved = step(situation, action)
                if reached is None or _cell(reached) in paths:
                    continue
                paths[_cell(reached)] = [*paths[_cell(situation)], action]
                if solved:
                    return paths[_cell(reached)]
                ahead.append(reached)
        frontier = ahead
    return None


def _cell(situation):
    return tuple(round(x * 1000) for x in situation)


def main(episodes):
    import gymnasium as gym

    import envs  # noqa: F401  registers the ids

    for task in ("Goal", "Push", "ObjectComparison", "PropertyComparison"):
        for count in (3, 4, 5, 6):
            name = f"GenesisRL/Sprite{task}-v0"
            env = gym.make(name, observation="state", num_objects=count)
            solved = 0
            for seed in range(episodes):
                state, _ = env.reset(seed=seed)
                info = {"is_success": False}
                for action in solve(name, state) or ():
                    *_, info = env.step(action)
                solved += info["is_success"]
            print(f"{task}, {count} objects: {solved / episodes:.3f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
