"""MuJoCo's own OpenGL pictures of towers: the reference that the ray caster is held to.

Run as a script in a process of its own, because MUJOCO_GL=egl is decided when MuJoCo is imported:

    MUJOCO_GL=egl python tests/mujoco_towers.py scenes.npz pictures.npy

Everything is as in the scenes of ShapeStacks: lights, materials, sky, quality of the shadows.
"""

import sys

import cv2
import numpy as np

KINDS = {0: "mjGEOM_SPHERE", 1: "mjGEOM_BOX", 2: "mjGEOM_CYLINDER"}
BLOCKS = 6

_LIGHTS = ((0, 0), (-9, -9), (-9, 9), (9, 9), (9, -9))
_LIGHT = """<light directional="true" pos="{0} {1} 20" dir="{2} {3} -20" ambient="0 0 0"
    diffuse=".7 .7 .7" specular=".3 .3 .3" castshadow="true"/>"""
_SURFACE = """<texture name="{0}{1}" type="2d" file="{0}{1}.png"/>
    <material name="{0}{1}" texture="{0}{1}"/>"""
_MODEL = """
<mujoco>
  <statistic extent="4" center="0 0 0"/>
  <visual>
    <headlight active="0"/>
    <map znear=".1" shadowclip="10"/>
    {quality}
    <global offwidth="640" offheight="640"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".4 .6 .8" rgb2="0 0 0" width="256"
      height="256"/>
    {surfaces}
  </asset>
  <worldbody>
    {lights}
    <camera name="eye"/>
    <geom name="floor" type="plane" size="10 10 .1" material="floor0"/>
    <geom name="wall_1" type="plane" size="10 10 .1" pos="0 10 10" xyaxes="-1 0 0 0 0 -1"
      material="wall0"/>
    <geom name="wall_2" type="plane" size="10 10 .1" pos="10 0 10" xyaxes="0 1 0 0 0 -1"
      material="wall0"/>
    {blocks}
  </worldbody>
</mujoco>
"""


# Images are drawn as for the data set. Masks are a matter of geometry: round shapes are drawn with
# more sides than MuJoCo's 28, and without light.
_IMAGES = '<quality shadowsize="4096" offsamples="8"/>'
_MASKS = '<quality shadowsize="0" offsamples="0" numslices="192" numstacks="64"/>'


def template(mujoco, floors: np.ndarray, walls: np.ndarray, masks: bool):
    """A model with every texture and six blocks, to be rewritten for each scene."""
    images = {f"floor{i}": image for i, image in enumerate(floors)}
    images |= {f"wall{i}": image for i, image in enumerate(walls)}
    files = {
        f"{name}.png": cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        for name, image in images.items()
    }
    xml = _MODEL.format(
        quality=_MASKS if masks else _IMAGES,
        surfaces="".join(
            _SURFACE.format(name, i)
            for name, stack in (("floor", floors), ("wall", walls))
            for i in range(len(stack))
        ),
        lights="".join(_LIGHT.format(x, y, -x, -y) for x, y in _LIGHTS),
        blocks="".join(f'<geom name="block{i}" type="box" size="1 1 1"/>' for i in range(BLOCKS)),
    )
    return mujoco.MjModel.from_xml_string(xml, files)


def pictures(scenes: dict[str, np.ndarray], size: int, masks: bool) -> np.ndarray:
    """`[B, size, size, 3]` uint8 images, or `[B, size, size]` uint8 masks."""
    import mujoco

    model = template(mujoco, scenes["floors"], scenes["walls"], masks)
    data = mujoco.MjData(model)
    model.cam_fovy[0] = scenes["fovy"]
    first = model.geom("block0").id
    found = []
    with mujoco.Renderer(model, size, size) as renderer:
        if masks:
            renderer.enable_segmentation_rendering()
        for i in range(len(scenes["kind"])):
            _set_model(mujoco, model, scenes, i)
            mujoco.mj_forward(model, data)
            _set_poses(model, data, scenes, i)
            renderer.update_scene(data, camera="eye")
            picture = renderer.render().copy()
            if masks:
                owners = np.append(scenes["owner"][i], 0).astype(np.uint8)
                ids = picture[..., 0]
                picture = owners[np.where(ids >= first, ids - first, -1)]
            found.append(picture)
    return np.stack(found)


def _set_model(mujoco, model, scenes: dict[str, np.ndarray], i: int) -> None:
    model.light_castshadow[:] = np.arange(len(_LIGHTS)) == scenes["light"][i]
    model.geom("floor").matid = model.material(f"floor{scenes['floor'][i]}").id
    for name in ("wall_1", "wall_2"):
        model.geom(name).matid = model.material(f"wall{scenes['wall'][i]}").id
    for k in range(BLOCKS):
        geom = model.geom(f"block{k}")
        geom.type = getattr(mujoco.mjtGeom, KINDS[int(scenes["kind"][i, k])])
        x, y, z = scenes["size"][i, k]
        geom.size = (x, z, 0) if scenes["kind"][i, k] == 2 else (x, y, z)
        geom.rbound = np.linalg.norm((x, y, z))
        geom.rgba = (*scenes["colour"][i, k], float(scenes["owner"][i, k] > 0))


def _set_poses(model, data, scenes: dict[str, np.ndarray], i: int) -> None:
    first = model.geom("block0").id
    data.geom_xpos[first:] = scenes["position"][i]
    data.geom_xmat[first:] = scenes["rotation"][i].reshape(-1, 9)
    data.cam_xpos[0] = scenes["camera_position"][i]
    data.cam_xmat[0] = scenes["camera_rotation"][i].reshape(9)


if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        given = dict(file)
    np.save(sys.argv[2], pictures(given, int(given["pixels"]), bool(given["masks"])))
