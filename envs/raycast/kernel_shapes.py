"""`shapes` as device functions: a block of rays against one primitive.

Everything is in the primitive's own frame and named as in `shapes`, which defines what is computed.
A primitive's kind and size are the same for the whole block, so that a block follows one branch.

Imported with `kernels`, and only there.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from envs.raycast import shapes
from envs.solids import SOLIDS

_KINDS = {name: tl.constexpr(SOLIDS.index(name)) for name in SOLIDS}
SPHERE, BOX, CYLINDER = _KINDS["sphere"], _KINDS["box"], _KINDS["cylinder"]
CAPSULE, CONE = _KINDS["capsule"], _KINDS["cone"]
ICOSAHEDRON, TRIANGLE = _KINDS["icosahedron"], _KINDS["triangle"]

_INFINITY = tl.constexpr(float("inf"))
_TINY = tl.constexpr(1e-12)
_INNER = tl.constexpr(shapes.ICOSAHEDRON_INNER)
# The axes of an icosahedron are (A, +-A, +-A) and the turns of (0, B, +-C).
_A = tl.constexpr(abs(shapes.ICOSAHEDRON_AXES[0][0]))
_B = tl.constexpr(shapes.ICOSAHEDRON_AXES[4][1])
_C = tl.constexpr(shapes.ICOSAHEDRON_AXES[4][2])
_HALF_ROOT_3 = tl.constexpr(3**0.5 / 2)


@triton.jit
def entry(kind, ox, oy, oz, dx, dy, dz, sx, sy, sz):
    """Where rays enter; infinity where they miss."""
    t = ox * 0 + _INFINITY
    if kind == SPHERE:
        t = _unit_sphere(ox / sx, oy / sy, oz / sz, dx / sx, dy / sy, dz / sz)
    if kind == BOX:
        t = _box(ox, oy, oz, dx, dy, dz, sx, sy, sz)
    if kind == CYLINDER:
        t = _cylinder(ox, oy, oz, dx, dy, dz, sx, sz)
    if kind == CAPSULE:
        t = _cylinder(ox, oy, oz, dx, dy, dz, sx, sz)
        a, b, c = dx / sx, dy / sx, dz / sx
        t = tl.minimum(t, _unit_sphere(ox / sx, oy / sx, (oz - sz) / sx, a, b, c))
        t = tl.minimum(t, _unit_sphere(ox / sx, oy / sx, (oz + sz) / sx, a, b, c))
    if kind == CONE:
        t = _cone(ox, oy, oz, dx, dy, dz, sx, sz)
    if kind == ICOSAHEDRON:
        t = _icosahedron(ox, oy, oz, dx, dy, dz, sx * _INNER)
    if kind == TRIANGLE:
        t = _triangle(ox, oy, oz, dx, dy, dz, sx, sy)
    return t


@triton.jit
def normal(kind, x, y, z, sx, sy, sz):
    """The outward unit normal at points of the surface."""
    nx, ny, nz = x / (sx * sx), y / (sy * sy), z / (sz * sz)
    out = tl.sqrt(x * x + y * y)
    if kind == BOX:
        a, b, c = tl.abs(x / sx), tl.abs(y / sy), tl.abs(z / sz)
        on_x = (a >= b) & (a >= c)
        on_y = (b >= c) & (a < b)
        nx, ny = tl.where(on_x, x, 0.0), tl.where(on_y & (on_x == 0), y, 0.0)
        nz = tl.where(on_x | on_y, 0.0, z)
    if kind == CYLINDER:
        on_end = tl.abs(z) * sx > out * sz
        nx, ny = tl.where(on_end, 0.0, x), tl.where(on_end, 0.0, y)
        nz = tl.where(on_end, z, 0.0)
    if kind == CAPSULE:
        nx, ny = x * 1.0, y * 1.0
        nz = z - tl.minimum(tl.maximum(z, -sz), sz)
    if kind == CONE:
        slope = sx / (2 * sz)
        on_base = z + sz < tl.abs(slope * (sz - z) - out)
        nx, ny = tl.where(on_base, 0.0, x), tl.where(on_base, 0.0, y)
        nz = tl.where(on_base, -1.0, slope * out)
    if kind == ICOSAHEDRON:
        nx, ny, nz = _icosahedron_normal(x, y, z)
    if kind == TRIANGLE:
        nx, ny, nz = _triangle_normal(x, y, z, sx, sy)
    per_length = 1 / tl.sqrt(tl.maximum(nx * nx + ny * ny + nz * nz, 1e-30))
    return nx * per_length, ny * per_length, nz * per_length


@triton.jit
def _unit_sphere(ox, oy, oz, dx, dy, dz):
    along = dx * dx + dy * dy + dz * dz
    middle = -(ox * dx + oy * dy + oz * dz) / along
    x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
    inside = 1 - (x * x + y * y + z * z)
    return tl.where(inside > 0, middle - tl.sqrt(tl.maximum(inside / along, 0.0)), _INFINITY)


@triton.jit
def _slab(o, d, half):
    per_unit = 1 / tl.where(tl.abs(d) < _TINY, _TINY, d)
    middle, reach = -o * per_unit, half * tl.abs(per_unit)
    return middle - reach, middle + reach


@triton.jit
def _clip(near, far, o, d, half):
    low, high = _slab(o, d, half)
    return tl.maximum(near, low), tl.minimum(far, high)


@triton.jit
def _box(ox, oy, oz, dx, dy, dz, sx, sy, sz):
    near, far = _slab(ox, dx, sx)
    near, far = _clip(near, far, oy, dy, sy)
    near, far = _clip(near, far, oz, dz, sz)
    return tl.where(near < far, near, _INFINITY)


@triton.jit
def _cylinder(ox, oy, oz, dx, dy, dz, radius, half):
    along = tl.maximum(dx * dx + dy * dy, _TINY)
    middle = -(ox * dx + oy * dy) / along
    x, y = ox + middle * dx, oy + middle * dy
    inside = radius * radius - (x * x + y * y)
    reach = tl.sqrt(tl.maximum(inside / along, 0.0))
    near, far = _clip(middle - reach, middle + reach, oz, dz, half)
    return tl.where((inside > 0) & (near < far), near, _INFINITY)


@triton.jit
def _cone(ox, oy, oz, dx, dy, dz, radius, half):
    slope = radius / (2 * half)
    w, step = slope * (half - oz), -slope * dz
    a = dx * dx + dy * dy - step * step
    b = ox * dx + oy * dy - w * step
    c = ox * ox + oy * oy - w * w
    a = tl.where(tl.abs(a) < _TINY, _TINY, a)
    inside = b * b - a * c
    root = tl.sqrt(tl.maximum(inside, 0.0)) / tl.abs(a)
    first, last = -b / a - root, -b / a + root
    steep, downwards = a < 0, step > 0
    near = tl.where(steep, tl.where(downwards, last, -_INFINITY), first)
    far = tl.where(steep, tl.where(downwards, _INFINITY, first), last)
    near, far = _clip(near, far, oz, dz, half)
    return tl.where((steep | (inside > 0)) & (near < far), near, _INFINITY)


@triton.jit
def _icosahedron(ox, oy, oz, dx, dy, dz, half):
    near, far = _slab((ox + oy + oz) * _A, (dx + dy + dz) * _A, half)
    near, far = _clip(near, far, (ox + oy - oz) * _A, (dx + dy - dz) * _A, half)
    near, far = _clip(near, far, (ox - oy + oz) * _A, (dx - dy + dz) * _A, half)
    near, far = _clip(near, far, (ox - oy - oz) * _A, (dx - dy - dz) * _A, half)
    near, far = _clip(near, far, oy * _B + oz * _C, dy * _B + dz * _C, half)
    near, far = _clip(near, far, oy * _B - oz * _C, dy * _B - dz * _C, half)
    near, far = _clip(near, far, ox * _B + oy * _C, dx * _B + dy * _C, half)
    near, far = _clip(near, far, ox * _B - oy * _C, dx * _B - dy * _C, half)
    near, far = _clip(near, far, oz * _B + ox * _C, dz * _B + dx * _C, half)
    near, far = _clip(near, far, oz * _B - ox * _C, dz * _B - dx * _C, half)
    return tl.where(near < far, near, _INFINITY)


@triton.jit
def _farther(best, nx, ny, nz, x, y, z, ax, ay, az):
    """Keeps the axis along which the point is farthest out, with the sign of its side."""
    height = ax * x + ay * y + az * z
    sign = tl.where(height < 0, -1.0, 1.0)
    more = tl.abs(height) > best
    nx, ny = tl.where(more, sign * ax, nx), tl.where(more, sign * ay, ny)
    return tl.where(more, tl.abs(height), best), nx, ny, tl.where(more, sign * az, nz)


@triton.jit
def _icosahedron_normal(x, y, z):
    best, nx, ny, nz = x * 0 - 1, x * 0, y * 0, z * 0
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _A, _A, _A)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _A, _A, -_A)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _A, -_A, _A)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _A, -_A, -_A)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, 0.0, _B, _C)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, 0.0, _B, -_C)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _B, _C, 0.0)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _B, -_C, 0.0)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, _C, 0.0, _B)
    best, nx, ny, nz = _farther(best, nx, ny, nz, x, y, z, -_C, 0.0, _B)
    return nx, ny, nz


@triton.jit
def _other(near, far, start, step, other_start, other_step):
    """The half-space in which a rod of a triangle is further out than another."""
    closing = other_step - step
    closing = tl.where(tl.abs(closing) < _TINY, _TINY, closing)
    t = (start - other_start) / closing
    near = tl.where(closing < 0, tl.maximum(near, t), near)
    return near, tl.where(closing > 0, tl.minimum(far, t), far)


@triton.jit
def _rod(y, dy, depth, middle, start, step, start_1, step_1, start_2, step_2):
    """One rod of a triangle: an elliptic cylinder, cut off where the others begin."""
    a, b = 2 * (start - middle) / depth, 2 * step / depth
    c, d = y / depth, dy / depth
    along = tl.maximum(b * b + d * d, _TINY)
    nearest = -(a * b + c * d) / along
    a, c = a + nearest * b, c + nearest * d
    inside = 1 - a * a - c * c
    reach = tl.sqrt(tl.maximum(inside / along, 0.0))
    near, far = nearest - reach, tl.where(inside > 0, nearest + reach, -_INFINITY)
    near, far = _other(near, far, start, step, start_1, step_1)
    near, far = _other(near, far, start, step, start_2, step_2)
    return tl.where(near < far, near, _INFINITY)


@triton.jit
def _triangle(ox, oy, oz, dx, dy, dz, radius, depth):
    middle = (radius - depth) / 2
    a, da = -oz, -dz
    b, db = _HALF_ROOT_3 * ox + 0.5 * oz, _HALF_ROOT_3 * dx + 0.5 * dz
    c, dc = 0.5 * oz - _HALF_ROOT_3 * ox, 0.5 * dz - _HALF_ROOT_3 * dx
    t = _rod(oy, dy, depth, middle, a, da, b, db, c, dc)
    t = tl.minimum(t, _rod(oy, dy, depth, middle, b, db, c, dc, a, da))
    return tl.minimum(t, _rod(oy, dy, depth, middle, c, dc, a, da, b, db))


@triton.jit
def _triangle_normal(x, y, z, radius, depth):
    a, b, c = -z, _HALF_ROOT_3 * x + 0.5 * z, 0.5 * z - _HALF_ROOT_3 * x
    on_a = (a >= b) & (a >= c)
    on_b = (b >= c) & (a < b)
    slope = 4 * (tl.maximum(a, tl.maximum(b, c)) - (radius - depth) / 2)
    side = tl.where(on_b, _HALF_ROOT_3, -_HALF_ROOT_3)
    return tl.where(on_a, 0.0, slope * side), y * 1.0, slope * tl.where(on_a, -1.0, 0.5)
