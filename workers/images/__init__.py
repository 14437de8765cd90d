"""Runtime images: their names, and those that Everwarm can build.

Containers run AWS's own base images. Where no registry of images is reached (air-gapped machines, tests) this package
builds images that keep the same contract, and gives them the same names, so that nothing else needs to know.

Words: a *recipe* says what an image is made of; a *layer* is a folder that recipes share, with files (``root/``), a
script (``install``, ``compile``) and image settings (``changes``). Recipes and layers lie in ``compose/images``, in an
installed Everwarm beside this file. A *root file system* is what mmdebstrap makes of a recipe: a tar archive, kept in
the cache under the hash of everything that went into it, so that a second engine gets it by import alone. The hash is
also the image's label, which tells whether an engine has the image as its recipe is now.

``names`` and ``recipes`` decide, ``rootfs`` builds, ``build`` is the command.
"""
