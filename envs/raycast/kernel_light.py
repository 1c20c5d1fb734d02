"""`atlas`, `stack` and `room` as device functions: colour and light of points of one scene.

Rows of numbers come from `StackLook` and `RoomLook` (`scene_numbers`, `plane_numbers`). Imported
with `kernels`, and only there.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import triton
import triton.language as tl

from envs.raycast import look, room, stack

LIFT = tl.constexpr(look.LIFT)
_LIGHT = tl.constexpr(12)  # where the look's numbers begin in a row of scenes

_DIFFUSE, _SPECULAR = tl.constexpr(stack.DIFFUSE), tl.constexpr(stack.SPECULAR)
_SQUARINGS = tl.constexpr(stack.SQUARINGS)
_NEAR, _WALL_NEAREST = tl.constexpr(stack.NEAR), tl.constexpr(stack.WALL_NEAREST)
_LEVEL, _UP = tl.constexpr(stack.TOWARDS[3][0]), tl.constexpr(stack.TOWARDS[3][2])
_ZENITH_RED = tl.constexpr(stack.ZENITH[0])
_ZENITH_GREEN = tl.constexpr(stack.ZENITH[1])
_ZENITH_BLUE = tl.constexpr(stack.ZENITH[2])
_ROOT_2, _TWO_BY_PI = tl.constexpr(math.sqrt(2)), tl.constexpr(2 / math.pi)
_HALF_PI = tl.constexpr(math.pi / 2)

_AMBIENT, _HEADLIGHT = tl.constexpr(room.AMBIENT), tl.constexpr(room.HEADLIGHT)
_LAMP, _LAMP_SQUARINGS = tl.constexpr(room.LAMP), tl.constexpr(room.LAMP_SQUARINGS)
_SKY_RED, _SKY_GREEN = tl.constexpr(room.SKY[0]), tl.constexpr(room.SKY[1])
_SKY_BLUE = tl.constexpr(room.SKY[2])


@triton.jit
def texture(atlas, number, side, last, u, v, footprint):
    """`Atlas.sample`: red, green and blue."""
    first = number * ((4 * side * side - 1) // 3)
    level = tl.minimum(tl.maximum(tl.log2(footprint), 0.0), last * 1.0)
    lower = tl.minimum(level.to(tl.int32), last - 1)
    between = level - lower
    red, green, blue = u * 0, u * 0, u * 0
    for upper in tl.static_range(2):
        width = side >> (lower + upper)
        start = first + (side * side - width * width) // 3 * 4  # the levels before
        share = between if upper else 1 - between
        x, y = u * width - 0.5, v * width - 0.5
        left, top = tl.floor(x), tl.floor(y)
        x, y = x - left, y - top
        for corner in tl.static_range(4):
            column = (left.to(tl.int32) + corner % 2) & (width - 1)
            row = (top.to(tl.int32) + corner // 2) & (width - 1)
            weight = (x if corner % 2 else 1 - x) * (y if corner // 2 else 1 - y) * share
            texel = tl.load(atlas + start + row * width + column)
            red += weight * (texel & 255)
            green += weight * ((texel >> 8) & 255)
            blue += weight * ((texel >> 16) & 255)
    return red * (1 / 255), green * (1 / 255), blue * (1 / 255)


@triton.jit
def stack_shadow_ray(scene, x, y, z):
    """Direction and end of the rays towards the shadow light."""
    tx, ty = tl.load(scene + _LIGHT), tl.load(scene + _LIGHT + 1)
    tz, reach = tl.load(scene + _LIGHT + 2), tl.load(scene + _LIGHT + 3)
    return tx + x * 0, ty + x * 0, tz + x * 0, reach - _NEAR - (x * tx + y * ty + z * tz)


@triton.jit
def _behind_wall(
    apart, along, z, into, sideways, up, end, HALF: tl.constexpr, HEIGHT: tl.constexpr
):
    t = tl.where(into > 0, apart / tl.maximum(into, 1e-6), 0.0)
    within = tl.minimum(t - _WALL_NEAREST, end - t)
    within = tl.minimum(within, HALF - tl.abs(t * sideways + along))
    return tl.minimum(within, HEIGHT - (t * up + z)) > 0


@triton.jit
def behind_walls(x, y, z, tx, ty, tz, end, HALF: tl.constexpr, HEIGHT: tl.constexpr):
    """Whether a wall is between the points and the shadow light."""
    first = _behind_wall(HALF - y, x, z, ty, tx, tz, end, HALF, HEIGHT)
    return first | _behind_wall(HALF - x, y, z, tx, ty, tz, end, HALF, HEIGHT)


@triton.jit
def _shine(cosine, facing, to_view):
    power = (cosine + facing) * (cosine + facing) / tl.maximum(2 + 2 * to_view, 1e-6)
    for _ in tl.static_range(_SQUARINGS):
        power = power * power
    return power * _SPECULAR


@triton.jit
def stack_on_planes(row, dx, dy, dz, length, cosine, lit):
    """What the texture is multiplied with; row: that of each point's plane."""
    to_view = tl.load(row + 12) * dx + tl.load(row + 13) * dy + tl.load(row + 14) * dz
    first = _shine(tl.load(row + 15), cosine, -to_view / length)
    to_view = tl.load(row + 16) * dx + tl.load(row + 17) * dy + tl.load(row + 18) * dz
    second = _shine(tl.load(row + 19), cosine, -to_view / length)
    others = tl.load(row + 20) + tl.load(row + 21) * first + second
    own = tl.load(row + 22) + tl.load(row + 23) * first
    return tl.minimum(others, 1.0) + tl.minimum(own, 1.0) * lit


@triton.jit
def stack_on_solids(scene, mx, my, mz, nx, ny, nz, vx, vy, vz, lit):
    """The colours of solids of materials m."""
    shadow_light = tl.load(scene + _LIGHT + 4).to(tl.int32)
    facing = nx * vx + ny * vy + nz * vz
    others, others_shine, own, own_shine = nx * 0, nx * 0, nx * 0, nx * 0
    for k in tl.static_range(5):
        tx = 0.0 if k == 0 else (_LEVEL if k >= 3 else -_LEVEL)
        ty = 0.0 if k == 0 else (_LEVEL if k // 2 == 1 else -_LEVEL)
        tz = 1.0 if k == 0 else _UP
        cosine = nx * tx + ny * ty + nz * tz
        shine = _shine(cosine, facing, vx * tx + vy * ty + vz * tz)
        shine = tl.where(cosine > 0, shine, 0.0)
        diffuse = _DIFFUSE * tl.maximum(cosine, 0.0)
        is_own = shadow_light == k
        own += tl.where(is_own, diffuse, 0.0)
        own_shine += tl.where(is_own, shine, 0.0)
        others += tl.where(is_own, 0.0, diffuse)
        others_shine += tl.where(is_own, 0.0, shine)
    red = tl.minimum(mx * others + others_shine, 1.0) + tl.minimum(mx * own + own_shine, 1.0) * lit
    green = tl.minimum(my * others + others_shine, 1.0)
    green += tl.minimum(my * own + own_shine, 1.0) * lit
    blue = tl.minimum(mz * others + others_shine, 1.0)
    blue += tl.minimum(mz * own + own_shine, 1.0) * lit
    return red, green, blue


@triton.jit
def _arcsine(x):
    """To 2e-8: Abramowitz and Stegun, 4.4.46."""
    y = tl.minimum(tl.abs(x), 1.0)
    series = 0.0066700901 - 0.0012624911 * y
    series = -0.0170881256 + y * series
    series = 0.0308918810 + y * series
    series = -0.0501743046 + y * series
    series = 0.0889789874 + y * series
    series = -0.2145988016 + y * series
    series = 1.5707963050 + y * series
    angle = _HALF_PI - tl.sqrt(1 - y) * series
    return tl.where(x < 0, -angle, angle)


@triton.jit
def stack_sky(up):
    """The colours of the sky; up: z of the unit direction."""
    elevation = _arcsine(up) * _TWO_BY_PI
    amount = 0.5 + 0.5 * _ROOT_2 * elevation / tl.sqrt(1 + elevation * elevation)
    return amount * _ZENITH_RED, amount * _ZENITH_GREEN, amount * _ZENITH_BLUE


@triton.jit
def room_shadow_ray(scene, x, y, z):
    """Direction and end of the rays to the lamp."""
    tx, ty = tl.load(scene + _LIGHT) - x, tl.load(scene + _LIGHT + 1) - y
    return tx, ty, tl.load(scene + _LIGHT + 2) - z, x * 0 + 1.0


@triton.jit
def _lamp(tx, ty, tz, apart):
    per_distance = 1 / tl.sqrt(tx * tx + ty * ty + tz * tz)
    beam = tl.maximum(tz * per_distance, 0.0)
    for _ in tl.static_range(_LAMP_SQUARINGS):
        beam = beam * beam
    return tl.minimum(_LAMP * tl.maximum(apart * per_distance, 0.0) * beam, 1.0)


@triton.jit
def room_on_planes(scene, row, x, y, z, lit):
    """What the texture is multiplied with; row: that of each point's plane."""
    tx, ty, tz, _ = room_shadow_ray(scene, x, y, z)
    return tl.load(row + 13) + _lamp(tx, ty, tz, tl.load(row + 12)) * lit


@triton.jit
def room_on_solids(scene, mx, my, mz, nx, ny, nz, x, y, z, lit):
    """The colours of solids of materials m."""
    tx, ty, tz, _ = room_shadow_ray(scene, x, y, z)
    lamp = _lamp(tx, ty, tz, nx * tx + ny * ty + nz * tz)
    facing = nx * tl.load(scene + _LIGHT + 3) + ny * tl.load(scene + _LIGHT + 4)
    facing += nz * tl.load(scene + _LIGHT + 5)
    steady = tl.minimum(_AMBIENT + _HEADLIGHT * tl.maximum(facing, 0.0), 1.0)
    light = steady + lamp * lit
    return mx * light, my * light, mz * light


@triton.jit
def room_sky(x):
    """The colours of the sky: the same everywhere."""
    return x * 0 + _SKY_RED, x * 0 + _SKY_GREEN, x * 0 + _SKY_BLUE
