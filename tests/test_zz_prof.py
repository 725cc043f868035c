import torch, sys
def test_prof(section, folders):
    import numba, os
    print("\nA", torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, numba.get_num_threads(), os.environ.get("NUMBA_NUM_THREADS"))
    import sagefm
    sagefm.tl.embed(section, folders["default"])
    print("B", torch.get_num_threads())
    import scanpy as sc
    print("C", torch.get_num_threads())
    import dask, spatialdata, geopandas
    print("C2", torch.get_num_threads())
    sc.pp.neighbors(section, use_rep="X_sagefm")
    print("D", torch.get_num_threads())
    import squidpy as sq
    sc.tl.leiden(section, flavor="igraph", n_iterations=2, directed=False)
    print("E", torch.get_num_threads())
