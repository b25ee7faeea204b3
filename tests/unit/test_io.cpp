// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Safetensors and .npy files: round trips, and every way a file can be damaged.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <kmoe/core/error.hpp>
#include <kmoe/io/npy.hpp>
#include <kmoe/io/safetensors.hpp>

#include "support/random.hpp"
#include "support/temporary_directory.hpp"

namespace kmoe::test {
namespace {

using io::TensorStore;
using io::TensorView;
using io::write_safetensors;

TensorView tensor(std::string name, std::string dtype, std::vector<std::int64_t> shape,
                  std::string_view bytes) {
  TensorView view;
  view.name = std::move(name);
  view.dtype = std::move(dtype);
  view.shape = std::move(shape);
  view.bytes = std::as_bytes(std::span(bytes.data(), bytes.size()));
  return view;
}

std::string text_of(TensorView const& view) {
  return {reinterpret_cast<char const*>(view.bytes.data()), view.bytes.size()};
}

/// A file of any header and data, right or wrong.
std::string raw(std::uint64_t length, std::string const& header, std::string const& data) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}
std::string raw(std::string const& header, std::string const& data) {
  return raw(header.size(), header, data);
}

TEST(Safetensors, WritesWhatItReads) {
  TemporaryDirectory const dir;
  std::vector<TensorView> const written{
      tensor("odd", "U8", {3}, "abc"), tensor("pair", "BF16", {2, 1, 2}, "01234567"),
      tensor("scalar", "F32", {}, "1234"), tensor("none", "F64", {0, 7}, ""),
      tensor("na\"me\xc3\xa9", "I64", {1}, "abcdefgh")};
  write_safetensors(dir / "x.safetensors", written);
  TensorStore const store(dir / "x.safetensors");
  ASSERT_EQ(store.tensors().size(), written.size());
  std::string const file = read_file(dir / "x.safetensors");
  for (auto const& w : written) {
    TensorView const& r = store.at(w.name);
    EXPECT_EQ(r.name, w.name);
    EXPECT_EQ(r.dtype, w.dtype);
    EXPECT_EQ(r.shape, w.shape);
    EXPECT_EQ(text_of(r), text_of(w));
    EXPECT_EQ(r.path, (dir / "x.safetensors").string());
    EXPECT_EQ(file.substr(r.offset, r.bytes.size()), text_of(w));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(store.find("nothing"), nullptr);
}

TEST(Safetensors, MappedFileOutlivesItsReplacement) {
  TemporaryDirectory const dir;
  write_safetensors(dir / "x.safetensors", std::vector{tensor("a", "U8", {4}, "old!")});
  TensorView const kept = [&] {
    static TensorStore const store(dir / "x.safetensors");
    return store.at("a");
  }();
  write_safetensors(dir / "x.safetensors", std::vector{tensor("a", "U8", {4}, "new!")});
  EXPECT_EQ(text_of(kept), "old!");
  EXPECT_EQ(text_of(TensorStore(dir / "x.safetensors").at("a")), "new!");
}

TEST(Safetensors, WriterRefusesWhatIsInconsistent) {
  TemporaryDirectory const dir;
  auto const write = [&](std::vector<TensorView> const& tensors) {
    return message_of<InvalidArgument>([&] { write_safetensors(dir / "x.safetensors", tensors); });
  };
  EXPECT_NE(write({tensor("a", "F32", {2}, "1234")}).find("\"a\""), std::string::npos);
  EXPECT_NE(write({tensor("a", "F31", {1}, "1234")}).find("F31"), std::string::npos);
  EXPECT_NE(write({tensor("a", "U8", {-1}, "1")}).find("[-1]"), std::string::npos);
  EXPECT_NE(write({tensor("b", "U8", {1}, "1"), tensor("b", "U8", {1}, "2")}).find("twice"),
            std::string::npos);
  EXPECT_NE(message_of<IoError>([&] {
              write_safetensors(dir / "no/x.safetensors", {});
            }).find((dir / "no/x.safetensors").string()),
            std::string::npos);
}

struct Damage {
  std::string name;
  std::string bytes;
  std::vector<std::string> message;  // parts of it
};

std::ostream& operator<<(std::ostream& out, Damage const& damage) {
  return out << damage.name;
}

class DamagedSafetensors : public testing::TestWithParam<Damage> {};

TEST_P(DamagedSafetensors, IsNamedWithPathTensorAndOffset) {
  TemporaryDirectory const dir;
  auto const path = dir / "damaged.safetensors";
  write_file(path, GetParam().bytes);
  std::string const message = message_of<IoError>([&] { TensorStore const store(path); });
  EXPECT_NE(message.find(path.string()), std::string::npos) << message;
  EXPECT_NE(message.find("byte offset "), std::string::npos) << message;
  for (auto const& part : GetParam().message) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
  }
}

std::string entry(std::string const& name, std::string const& dtype, std::string const& shape,
                  std::string const& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

std::vector<Damage> damages() {
  std::string const a = entry("a", "U8", "[4]", "[0,4]");
  std::string const good = "{" + a + "}";
  auto const one = [](std::string const& dtype, std::string const& shape,
                      std::string const& offsets) {
    return raw("{" + entry("t", dtype, shape, offsets) + "}", "01234567");
  };
  // The data of `one` begins at 8 + the length of its header.
  auto const at = [](std::string const& file, std::size_t offset) {
    return "byte offset " + std::to_string(file.size() - 8 + offset) + ")";
  };
  std::vector<Damage> all{
      {"empty", "", {"has 0 bytes", "byte offset 0"}},
      {"seven_bytes", "1234567", {"has 7 bytes", "byte offset 0"}},
      {"length_zero", raw(0, "", ""), {"header length 0", "byte offset 0"}},
      {"length_2_63", raw(1ULL << 63, good, "0123"), {"9223372036854775808", "byte offset 0"}},
      {"length_max", raw(~0ULL, good, "0123"), {"18446744073709551615"}},
      {"length_beyond_file", raw(good.size() + 5, good, "0123"), {"header length"}},
      {"truncated_header", raw(good.size(), good.substr(0, 10), ""), {"header length"}},
      {"truncated_data", raw(good, "012"), {"\"a\"", "outside the 3 bytes"}},
      {"extra_data", raw(good, "01234"), {"1 bytes follow", std::to_string(8 + good.size() + 4)}},
      {"not_json", raw("{\"a\":}", ""), {"JSON", "byte offset 13"}},
      {"not_utf8", raw("{\"\xff\xff\":1}", ""), {"JSON"}},
      {"number_overflows", raw(R"({"a":1e999})", ""), {"JSON", "1e999"}},
      {"not_an_object", raw("[1, 2]", ""), {"not an object"}},
      {"duplicate_name", raw("{" + a + "," + a + "}", "0123"), {"\"a\"", "twice"}},
      {"entry_not_an_object", raw("{\"t\":3}", ""), {"\"t\"", "dtype"}},
      {"no_dtype", raw(R"({"t":{"shape":[1],"data_offsets":[0,1]}})", "0"), {"\"t\"", "dtype"}},
      {"no_shape", raw(R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", "0"), {"\"t\"", "shape"}},
      {"no_offsets", raw(R"({"t":{"dtype":"U8","shape":[1]}})", "0"), {"\"t\"", "data_offsets"}},
      {"unknown_dtype", one("F33", "[2]", "[0,8]"), {"\"t\"", "F33"}},
      {"negative_shape", one("F32", "[-2]", "[0,8]"), {"\"t\"", "[-2]"}},
      {"fraction_shape", one("F32", "[2.5]", "[0,8]"), {"\"t\"", "2.5"}},
      {"shape_2_64", one("F32", "[18446744073709551616]", "[0,8]"), {"\"t\"", "shape"}},
      {"shape_2_63", one("U8", "[9223372036854775808]", "[0,8]"), {"\"t\"", "shape"}},
      {"product_overflows", one("F32", "[4294967296,4294967296]", "[0,0]"), {"\"t\"", "overflows"}},
      {"bytes_overflow", one("F64", "[4611686018427387904]", "[0,0]"), {"\"t\"", "overflows"}},
      {"half_a_byte", one("F4", "[3]", "[0,1]"), {"\"t\"", "F4"}},
      {"one_offset", one("U8", "[8]", "[0]"), {"\"t\"", "data_offsets"}},
      {"negative_offset", one("U8", "[8]", "[-8,0]"), {"\"t\"", "data_offsets"}},
      {"offset_2_63", one("U8", "[8]", "[9223372036854775800,9223372036854775808]"), {"\"t\""}},
      {"trailing_bytes_of_none", raw("{}", "1"), {"1 bytes follow"}},
  };
  auto const add = [&](std::string name, std::string bytes, std::vector<std::string> message,
                       std::size_t offset) {
    message.push_back(at(bytes, offset));
    all.push_back({std::move(name), std::move(bytes), std::move(message)});
  };
  add("offsets_in_wrong_order", one("U8", "[8]", "[8,0]"), {"\"t\"", "order"}, 8);
  add("offsets_outside", one("U8", "[9]", "[0,9]"), {"\"t\"", "outside the 8 bytes"}, 0);
  add("begin_outside", one("U8", "[0]", "[900,900]"), {"\"t\"", "outside the 8 bytes"}, 900);
  add("size_too_small", one("F32", "[3]", "[0,8]"), {"\"t\"", "must have 12 bytes"}, 0);
  add("size_too_large", one("F32", "[1]", "[0,8]"), {"\"t\"", "must have 4 bytes"}, 0);
  add("overlap",
      raw("{" + entry("b", "U8", "[5]", "[3,8]") + "," + entry("a", "U8", "[4]", "[0,4]") + "}",
          "01234567"),
      {"tensor \"b\" overlaps tensor \"a\""}, 3);
  add("same_bytes_twice",
      raw("{" + entry("a", "U8", "[8]", "[0,8]") + "," + entry("b", "U8", "[8]", "[0,8]") + "}",
          "01234567"),
      {"tensor \"b\" overlaps tensor \"a\""}, 0);
  add("hole",
      raw("{" + entry("a", "U8", "[3]", "[0,3]") + "," + entry("b", "U8", "[4]", "[4,8]") + "}",
          "01234567"),
      {"between tensor \"a\" and tensor \"b\""}, 3);
  add("hole_in_front", one("U8", "[7]", "[1,8]"), {"between the header and tensor \"t\""}, 0);
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, DamagedSafetensors, testing::ValuesIn(damages()),
                         [](auto const& test) { return test.param.name; });

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  TemporaryDirectory const dir;
  std::string const header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "F16", "[2]", "[4,8]") + "," +
      entry("a", "U8", "[4]", "[0,4]") + "," + entry("z", "F32", "[0]", "[4,4]") + "}   ";
  write_file(dir / "x.safetensors", raw(header, "aaaabbbb"));
  TensorStore const store(dir / "x.safetensors");
  EXPECT_EQ(store.tensors().size(), 3U);
  EXPECT_EQ(text_of(store.at("a")), "aaaa");
  EXPECT_EQ(text_of(store.at("b")), "bbbb");
  write_file(dir / "none.safetensors", raw("{}", ""));
  EXPECT_TRUE(TensorStore(dir / "none.safetensors").tensors().empty());
}

TEST(Safetensors, WhatIsNotAFile) {
  TemporaryDirectory const dir;
  for (std::string const name : {"absent.safetensors", "/dev/null"}) {
    auto const path = name[0] == '/' ? std::filesystem::path(name) : dir / name;
    std::string const message = message_of<IoError>([&] { TensorStore const store(path); });
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
  }
}

// Directories.

void write_shards(TemporaryDirectory const& dir, std::string const& index) {
  write_safetensors(dir / "one.safetensors",
                    std::vector{tensor("a", "U8", {1}, "A"), tensor("b", "U8", {1}, "B")});
  write_safetensors(dir / "two.safetensors",
                    std::vector{tensor("c", "U8", {1}, "C"), tensor("b", "U8", {1}, "x")});
  write_file(dir / "model.safetensors.index.json", index);
}

TEST(SafetensorsDirectory, FollowsTheIndex) {
  TemporaryDirectory const dir;
  write_shards(dir, R"({"metadata":{"total_size":3},"weight_map":
    {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
  TensorStore const store(dir.path());
  EXPECT_EQ(store.tensors().size(), 3U);
  EXPECT_EQ(text_of(store.at("a")), "A");
  EXPECT_EQ(text_of(store.at("b")), "B");  // not the one of the other shard
  EXPECT_EQ(text_of(store.at("c")), "C");
  EXPECT_EQ(store.at("c").path, (dir / "two.safetensors").string());
}

TEST(SafetensorsDirectory, PrefersTheSingleFile) {
  TemporaryDirectory const dir;
  write_shards(dir, "damaged");
  write_safetensors(dir / "model.safetensors", std::vector{tensor("m", "U8", {1}, "M")});
  EXPECT_EQ(TensorStore(dir.path()).tensors().size(), 1U);
}

TEST(SafetensorsDirectory, TakesTheOnlyFile) {
  TemporaryDirectory const dir;
  std::string const none = message_of<IoError>([&] { TensorStore const store(dir.path()); });
  EXPECT_NE(none.find(dir.path().string()), std::string::npos) << none;
  write_safetensors(dir / "pytorch.safetensors", std::vector{tensor("m", "U8", {1}, "M")});
  EXPECT_EQ(TensorStore(dir.path()).tensors().size(), 1U);
  write_safetensors(dir / "other.safetensors", std::vector{tensor("m", "U8", {1}, "M")});
  std::string const two = message_of<IoError>([&] { TensorStore const store(dir.path()); });
  EXPECT_NE(two.find("2 other"), std::string::npos) << two;
}

TEST(SafetensorsDirectory, NamesEachMissingShard) {
  TemporaryDirectory const dir;
  write_shards(dir, R"({"weight_map":{"a":"one.safetensors","p":"p.safetensors",
                                      "q":"q.safetensors"}})");
  std::string const message = message_of<IoError>([&] { TensorStore const store(dir.path()); });
  for (auto const* part : {"model.safetensors.index.json", "p.safetensors", "q.safetensors"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_EQ(message.find("one.safetensors"), std::string::npos) << message;
}

TEST(SafetensorsDirectory, NamesATensorThatItsShardLacks) {
  TemporaryDirectory const dir;
  write_shards(dir, R"({"weight_map":{"a":"two.safetensors"}})");
  std::string const message = message_of<IoError>([&] { TensorStore const store(dir.path()); });
  EXPECT_NE(message.find("two.safetensors: has no tensor \"a\""), std::string::npos) << message;
}

TEST(SafetensorsDirectory, RefusesShardsOutsideOfIt) {
  TemporaryDirectory const dir;
  for (std::string const name :
       {"../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\\\b"}) {
    write_shards(dir, R"({"weight_map":{"a":")" + name + R"("}})");
    std::string const message = message_of<IoError>([&] { TensorStore const store(dir.path()); });
    EXPECT_NE(message.find("\"a\""), std::string::npos) << name << ": " << message;
    EXPECT_NE(message.find("directory"), std::string::npos) << name << ": " << message;
  }
}

TEST(SafetensorsDirectory, RefusesADamagedIndex) {
  TemporaryDirectory const dir;
  for (std::string const index :
       {"", "{", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":3}})"}) {
    write_shards(dir, index);
    std::string const message = message_of<IoError>([&] { TensorStore const store(dir.path()); });
    EXPECT_NE(message.find("model.safetensors.index.json"), std::string::npos)
        << index << ": " << message;
  }
}

// Matrices.

template <class T>
class MatrixFiles : public testing::Test {};
using Elements = testing::Types<double, float, bfloat16, half>;
TYPED_TEST_SUITE(MatrixFiles, Elements);

template <class T>
void expect_same(io::HostMatrix<T> const& found, io::HostMatrix<T> const& expected) {
  ASSERT_EQ(found.extent(0), expected.extent(0));
  ASSERT_EQ(found.extent(1), expected.extent(1));
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), expected.size() * sizeof(T)), 0);
}

TYPED_TEST(MatrixFiles, RoundTrip) {
  using T = TypeParam;
  TemporaryDirectory const dir;
  for (auto const* extension : {".npy", ".safetensors"}) {
    for (auto const& [rows, cols] : std::vector<std::pair<int, int>>{
             {0, 5}, {5, 0}, {1, 1}, {3, 7}, {64, 33}, {129, 31}, {200, 1}}) {
      auto const path = dir / (std::string("m") + extension);
      auto const m = random_matrix<T, Kokkos::DefaultHostExecutionSpace>(rows, cols, 7);
      io::write_matrix<T>(path, m);
      expect_same<T>(io::read_matrix<T>(path), m);
    }
  }
}

TYPED_TEST(MatrixFiles, RowsAreReadAndWrittenInAnyOrder) {
  using T = TypeParam;
  TemporaryDirectory const dir;
  auto const m = random_matrix<T, Kokkos::DefaultHostExecutionSpace>(150, 9, 11);
  auto const part = [](auto const& matrix, std::size_t begin, std::size_t end) {
    return Kokkos::subview(matrix, std::pair(begin, end), Kokkos::ALL);
  };
  for (auto const* name : {"m.npy", "m.safetensors"}) {
    auto const out = io::create_matrix(dir / name, data_type_of<T>, 150, 9, "y");
    io::write_rows<T>(out, 70, part(m, 70, 150));
    io::write_rows<T>(out, 0, part(m, 0, 70));
    expect_same<T>(io::read_matrix<T>(dir / name, name[2] == 'n' ? "" : "y"), m);
    auto const file = io::open_matrix(dir / name);
    auto const rows = poisoned_matrix<T, Kokkos::DefaultHostExecutionSpace>(80, 9);
    io::read_rows<T>(file, 35, rows);
    EXPECT_EQ(std::memcmp(rows.data(), m.data() + 35 * 9, rows.size() * sizeof(T)), 0);
  }
}

TYPED_TEST(MatrixFiles, ConvertsFromEachTypeOfTheFile) {
  using T = TypeParam;
  TemporaryDirectory const dir;
  auto const check = [&]<class S>(S) {
    auto const m = random_matrix<S, Kokkos::DefaultHostExecutionSpace>(70, 5, 3, Values::wide);
    io::write_matrix<S>(dir / "m.safetensors", m);
    auto const read = io::read_matrix<T>(dir / "m.safetensors");
    for (std::size_t i = 0; i < m.size(); ++i) {
      auto const value = static_cast<double>(m.data()[i]);
      T const expected = std::is_same_v<T, double> ? T(value) : T(static_cast<float>(value));
      EXPECT_EQ(static_cast<double>(read.data()[i]), static_cast<double>(expected));
    }
  };
  check(double{});
  check(float{});
  check(bfloat16{});
  check(half{});
}

TEST(Npy, HasWhatNumpyWrites) {
  TemporaryDirectory const dir;
  io::HostMatrix<float> const m("m", 2, 3);
  m(1, 2) = 1.5F;
  io::write_matrix<float>(dir / "m.npy", m);
  std::string const file = read_file(dir / "m.npy");
  // numpy.save of a float32 array of that shape.
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  header.resize(128 - 10 - 1, ' ');
  std::string expected("\x93NUMPY\x01\x00\x76\x00", 10);
  expected += header + '\n' + std::string(20, '\0') + std::string("\x00\x00\xc0\x3f", 4);
  EXPECT_EQ(file, expected);
}

TEST(Npy, HoldsBfloat16AsFloat) {
  TemporaryDirectory const dir;
  auto const m = random_matrix<bfloat16, Kokkos::DefaultHostExecutionSpace>(5, 6, 1);
  auto const out = io::create_matrix(dir / "m.npy", DataType::bf16, 5, 6);
  EXPECT_EQ(out.dtype, DataType::f32);
  io::write_rows<bfloat16>(out, 0, m);
  EXPECT_EQ(io::open_matrix(dir / "m.npy").dtype, DataType::f32);
  expect_same<bfloat16>(io::read_matrix<bfloat16>(dir / "m.npy"), m);
}

std::string npy(std::string const& header, std::string const& data, char version = 1) {
  std::string file("\x93NUMPY", 6);
  file += version;
  file += '\0';
  auto const length = static_cast<std::uint32_t>(header.size());
  file += static_cast<char>(length & 0xffU);
  file += static_cast<char>(length >> 8);
  if (version > 1) file += std::string(2, '\0');
  return file + header + data;
}
std::string const good_npy = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";

TEST(Npy, ReadsEveryVersionAndSpelling) {
  TemporaryDirectory const dir;
  std::string const data("\x00\x00\x80\x3f\x00\x00\x00\x40", 8);
  std::vector<std::string> const files{
      npy(good_npy, data, 1), npy(good_npy, data, 2), npy(good_npy, data, 3),
      npy(R"({"shape":(1,2),"fortran_order":False,"descr":"<f4"})", data),
      npy("{'descr':'<f4','fortran_order':False,'shape':(2,1,1,),}", data)};
  for (auto const& bytes : files) {
    write_file(dir / "m.npy", bytes);
    auto const m = io::read_matrix<float>(dir / "m.npy");
    ASSERT_EQ(m.size(), 2U);
    EXPECT_EQ(m.data()[0], 1.0F);
    EXPECT_EQ(m.data()[1], 2.0F);
  }
}

template <class ErrorType>
void expect_npy_error(std::string const& bytes, std::vector<std::string> const& parts) {
  TemporaryDirectory const dir;
  write_file(dir / "m.npy", bytes);
  std::string const message = message_of<ErrorType>([&] { io::open_matrix(dir / "m.npy"); });
  EXPECT_NE(message.find((dir / "m.npy").string()), std::string::npos) << message;
  for (auto const& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
  }
}

TEST(Npy, DamagedFiles) {
  std::string const data(8, '\0');
  auto const with = [&](std::string const& shape) {
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }", data);
  };
  std::string const whole = npy(good_npy, data);
  std::string const offset = "byte offset " + std::to_string(10 + good_npy.size());
  expect_npy_error<IoError>("", {"not a .npy file", "byte offset 0"});
  expect_npy_error<IoError>("NUMPY, but not quite", {"not a .npy file"});
  expect_npy_error<IoError>(whole.substr(0, 9), {"not a .npy file"});
  expect_npy_error<IoError>(npy(good_npy, "", 2).substr(0, 11), {"truncated", "byte offset 8"});
  expect_npy_error<IoError>(whole.substr(0, 40), {"truncated", "byte offset 8"});
  expect_npy_error<IoError>(whole.substr(0, whole.size() - 1), {"truncated", "found 7", offset});
  expect_npy_error<IoError>(whole + "x", {"extra bytes", "found 9", offset});
  expect_npy_error<IoError>(with("(2, 3)"), {"truncated", "needs 24", "[2, 3]"});
  expect_npy_error<IoError>(with("(-1, 2)"), {"shape"});
  expect_npy_error<IoError>(with("(1; 2)"), {"shape"});
  expect_npy_error<IoError>(with("(99999999999999999999, 2)"), {"shape"});
  expect_npy_error<IoError>(with("(4294967296, 4294967296)"), {"more than 2^64"});
  expect_npy_error<IoError>(with("(2,)"), {"2 dimensions", "[2]"});
  expect_npy_error<IoError>(
      npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 2, 0), }", ""),
      {"too many rows"});
  for (std::string const header : {"", "[]", "{'descr'", "{'descr': '<f4", "{'descr': '<f4'",
                                   "{'what': 3}", "{'shape': (1, 2) 'descr': '<f4'}"}) {
    expect_npy_error<IoError>(npy(header, data), {".npy header", "byte offset"});
  }
}

TEST(Npy, WhatIsValidButNotRead) {
  std::string const data(8, '\0');
  auto const with = [&](std::string const& descr, std::string const& order = "False") {
    return npy("{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': (1, 2), }", data);
  };
  expect_npy_error<Unsupported>(with("'<f4'", "True"), {"Fortran order"});
  expect_npy_error<Unsupported>(with("'>f4'"), {">f4"});
  expect_npy_error<Unsupported>(with("'<i4'"), {"<i4"});
  expect_npy_error<Unsupported>(with("[('a', '<f4')]"), {"structured"});
  expect_npy_error<Unsupported>(npy(good_npy, data, 9), {"version", "9"});
}

TEST(Matrices, ArgumentsAreChecked) {
  TemporaryDirectory const dir;
  EXPECT_NE(message_of<Unsupported>([&] { io::open_matrix(dir / "m.bin"); }).find(".bin"),
            std::string::npos);
  EXPECT_NE(message_of<Unsupported>([&] {
              io::create_matrix(dir / "m.txt", DataType::f32, 1, 1);
            }).find(".txt"),
            std::string::npos);
  auto const out = io::create_matrix(dir / "m.npy", DataType::f32, 4, 3);
  auto const file = io::open_matrix(dir / "m.npy");
  io::HostMatrix<float> const wide("wide", 1, 4);
  io::HostMatrix<float> const two("two", 2, 3);
  EXPECT_NE(message_of<InvalidArgument>([&] { io::read_rows<float>(file, 0, wide); }).find("wide"),
            std::string::npos);
  auto const columns =
      Kokkos::subview(io::HostMatrix<float>("whole", 2, 5), Kokkos::ALL, std::pair(1, 4));
  EXPECT_NE(message_of<InvalidArgument>([&] {
              io::read_rows<float>(file, 0, columns);
            }).find("contiguous"),
            std::string::npos);
  EXPECT_THROW(io::write_rows<float>(out, 0, columns), InvalidArgument);
  EXPECT_THROW(io::read_rows<float>(file, 3, two), InvalidArgument);
  EXPECT_THROW(io::read_rows<float>(file, -1, two), InvalidArgument);
  EXPECT_THROW(io::write_rows<float>(out, 3, two), InvalidArgument);
  EXPECT_THROW(io::write_rows<float>(out, 0, wide), InvalidArgument);
  EXPECT_THROW(io::write_rows<double>(out, 0, io::HostMatrix<double>("d", 1, 3)), InvalidArgument);

  write_safetensors(dir / "x.safetensors", std::vector{tensor("a", "I64", {1, 1}, "01234567"),
                                                       tensor("b", "F32", {2}, "01234567")});
  auto const open = [&](std::string const& name) { io::open_matrix(dir / "x.safetensors", name); };
  EXPECT_NE(message_of<Unsupported>([&] { open("a"); }).find("I64"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { open("b"); }).find("\"b\""), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { open("c"); }).find("\"c\""), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { open(""); }).find("2 tensors"), std::string::npos);
}

}  // namespace
}  // namespace kmoe::test
