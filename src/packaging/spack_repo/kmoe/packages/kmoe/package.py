# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage
from spack_repo.builtin.build_systems.rocm import ROCmPackage

from spack.package import *


class Kmoe(CMakePackage, CudaPackage, ROCmPackage):
    """Expert-parallel Mixture-of-Experts layers for Kokkos and MPI."""

    tags = ["hpc"]


    license("Apache-2.0 WITH LLVM-exception")

    version("main", branch="main")

    variant("mpi", default=True, description="Spread experts over MPI ranks")
    variant("shared", default=False, description="Build a shared library")
    variant("cli", default=True, description="Build the kmoe command")
    variant("tests", default=False, description="Build the tests")
    variant("kokkos-kernels", default=False, description="Use Kokkos Kernels")

    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("kokkos@4.5:")
    depends_on("kokkos+wrapper", when="+cuda")
    depends_on("kokkos-kernels@4.5:", when="+kokkos-kernels")
    depends_on("mpi", when="+mpi")
    depends_on("nlohmann-json@3.7:")
    depends_on("cli11@2.1:", when="+cli")
    depends_on("googletest@1.12:", when="+tests")

    # The architecture of the device is that of Kokkos.
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"kokkos+cuda cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")
    for target in ROCmPackage.amdgpu_targets:
        depends_on(f"kokkos+rocm amdgpu_target={target}", when=f"+rocm amdgpu_target={target}")
    conflicts("+cuda", when="cuda_arch=none", msg="name the architecture: cuda_arch=90")
    conflicts("+rocm", when="amdgpu_target=none", msg="name the architecture: amdgpu_target=gfx90a")
    conflicts("+cuda", when="+rocm", msg="Kokkos has one device backend")

    def cmake_args(self):
        args = [
            self.define("Kokkos_ROOT", self.spec["kokkos"].prefix),
            self.define_from_variant("BUILD_SHARED_LIBS", "shared"),
            self.define_from_variant("KMOE_ENABLE_MPI", "mpi"),
            self.define_from_variant("KMOE_ENABLE_CLI", "cli"),
            self.define_from_variant("KMOE_ENABLE_TESTS", "tests"),
            self.define_from_variant("KMOE_ENABLE_KOKKOSKERNELS", "kokkos-kernels"),
            self.define("KMOE_ENABLE_EXAMPLES", False),
            self.define("KMOE_ENABLE_PCH", False),
        ]
        if self.spec.satisfies("+rocm"):
            args.append(self.define("CMAKE_CXX_COMPILER", self.spec["hip"].hipcc))
        elif self.spec.satisfies("+cuda"):
            args.append(self.define("CMAKE_CXX_COMPILER", self["kokkos"].kokkos_cxx))
        return args
