# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

import os
import pathlib

from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage
from spack_repo.builtin.build_systems.rocm import ROCmPackage

from spack.package import *


class Kmoe(CMakePackage, CudaPackage, ROCmPackage):
    """Expert-parallel Mixture-of-Experts layers for Kokkos and MPI, in C++, C and Fortran."""

    # kmoe has no public address yet: the clone that this recipe lies in.
    git = pathlib.Path(__file__).resolve().parents[6].as_uri()

    tags = ["hpc"]
    test_requires_compiler = True

    license("Apache-2.0 WITH LLVM-exception")

    version("main", branch="main")

    variant("mpi", default=True, description="Spread experts over MPI ranks")
    variant("shared", default=False, description="Build a shared library")
    variant("fortran", default=False, description="Build the Fortran module")
    variant("cli", default=True, description="Build the kmoe command")
    variant("tests", default=False, description="Build the tests")
    variant("kokkos-kernels", default=False, description="Use Kokkos Kernels")
    # As in kokkos, which is built for one architecture.
    variant(
        "cuda_arch",
        description="CUDA architecture",
        values=("none",) + CudaPackage.cuda_arch_values,
        default="none",
        multi=False,
        sticky=True,
        when="+cuda",
    )
    variant(
        "amdgpu_target",
        description="AMD GPU architecture",
        values=("none",) + ROCmPackage.amdgpu_targets,
        default="none",
        multi=False,
        sticky=True,
        when="+rocm",
    )

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("fortran", type="build", when="+fortran")
    depends_on("cmake@3.22:", type=("build", "test"))
    depends_on("pkgconfig", type="build", when="+tests")
    depends_on("kokkos@4.5:")
    depends_on("kokkos+pic", when="+shared")
    depends_on("kokkos-kernels@4.5:", when="+kokkos-kernels")
    depends_on("mpi@3:", when="+mpi")
    depends_on("nlohmann-json@3.9:")
    depends_on("cli11@2.1:", when="+cli")
    depends_on("googletest@1.12:", when="+tests")
    depends_on("python@3:", type="build", when="+tests+cli")

    # Kokkos decides the device, and what stands on it follows.
    with when("+cuda"):
        depends_on("kokkos+wrapper")
        for arch in CudaPackage.cuda_arch_values:
            depends_on(f"kokkos+cuda cuda_arch={arch}", when=f"cuda_arch={arch}")
            depends_on(
                f"kokkos-kernels+cuda cuda_arch={arch}", when=f"+kokkos-kernels cuda_arch={arch}"
            )
    with when("+rocm"):
        for target in ROCmPackage.amdgpu_targets:
            # kokkos-kernels has no variant for ROCm: it follows its kokkos, which is this one.
            depends_on(f"kokkos+rocm amdgpu_target={target}", when=f"amdgpu_target={target}")
    with when("~cuda~rocm"):
        # Kokkos' default device would be a GPU that nothing here was compiled for.
        depends_on("kokkos~cuda~rocm~sycl")

    conflicts("+cuda", when="cuda_arch=none", msg="name the architecture: cuda_arch=90")
    conflicts(
        "+rocm", when="amdgpu_target=none", msg="name the architecture: amdgpu_target=gfx90a"
    )
    conflicts("+cuda", when="+rocm", msg="Kokkos has one device backend")
    conflicts("%gcc@:10", msg="kmoe is C++20")
    conflicts("%clang@:13", msg="kmoe is C++20")
    conflicts("^mpich~fortran", when="+mpi+fortran", msg="the Fortran module uses mpi_f08")

    def cmake_args(self):
        args = [
            self.define("Kokkos_ROOT", self.spec["kokkos"].prefix),
            self.define_from_variant("BUILD_SHARED_LIBS", "shared"),
            self.define_from_variant("KMOE_ENABLE_MPI", "mpi"),
            self.define_from_variant("KMOE_ENABLE_FORTRAN", "fortran"),
            self.define_from_variant("KMOE_ENABLE_CLI", "cli"),
            self.define_from_variant("KMOE_ENABLE_TESTS", "tests"),
            self.define_from_variant("KMOE_ENABLE_KOKKOSKERNELS", "kokkos-kernels"),
            self.define("KMOE_ENABLE_EXAMPLES", False),
            self.define("KMOE_ENABLE_PCH", False),
        ]
        compiler = self.device_compiler()
        if compiler:
            args.append(self.define("CMAKE_CXX_COMPILER", compiler))
        return args

    def device_compiler(self):
        """The compiler that Kokkos wants where that is not the usual one."""
        if self.spec.satisfies("+rocm"):
            return self.spec["hip"].hipcc
        if self.spec.satisfies("+cuda"):
            return self["kokkos"].kokkos_cxx
        return None

    def setup_run_environment(self, env):
        env.set("kmoe_ROOT", self.prefix)

    @run_after("install")
    def keep_examples(self):
        """The stand-alone tests build the examples."""
        cache_extra_test_sources(self, ["examples"])

    def test_examples(self):
        """build the examples against the installed kmoe and run them"""
        source = self.test_suite.current_test_cache_dir.examples
        cmake = which(self.spec["cmake"].prefix.bin.cmake, required=True)
        args = [
            self.define("kmoe_ROOT", self.prefix),
            self.define("Kokkos_ROOT", self.spec["kokkos"].prefix),
        ]
        compiler = self.device_compiler()
        if compiler:
            args.append(self.define("CMAKE_CXX_COMPILER", compiler))
        cmake("-S", str(source), "-B", "build", *args)
        cmake("--build", "build")

        launch = []
        if self.spec.satisfies("+mpi"):
            launch = [self.spec["mpi"].prefix.bin.mpiexec, "-n", "2"]
        programs = ["01_route/route", "02_grouped_gemm/grouped_gemm"]
        if launch:
            programs += ["03_dispatch_combine/dispatch_combine", "04_layer/layer", "06_c/c"]
            if self.spec.satisfies("+fortran"):
                programs.append("07_fortran/fortran")
        for program in programs:
            with test_part(self, f"test_examples_{os.path.basename(program)}", purpose=program):
                command = launch + [join_path("build", program)]
                which(command[0], required=True)(*command[1:])
