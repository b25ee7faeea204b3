// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>

namespace kmoe::io::detail {

MappedFile::MappedFile(std::filesystem::path const& path) {
  // Non-blocking, so that a named pipe is refused below and not waited for.
  int const file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) fail_errno(path.string(), "can not be opened");
  struct ::stat status {};
  bool const regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  void* mapping = nullptr;
  if (regular && status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  }
  int const error = errno;
  ::close(file);
  if (!regular) throw IoError(path.string() + ": is not a regular file");
  errno = error;
  if (mapping == MAP_FAILED) fail_errno(path.string(), "can not be mapped");
  data_ = static_cast<std::byte const*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void fail(std::string const& path, std::uint64_t offset, std::string const& what) {
  throw IoError(path + ": " + what + " (byte offset " + std::to_string(offset) + ")");
}

void fail_errno(std::string const& path, std::string const& what) {
  throw IoError(path + ": " + what + ": " + std::generic_category().message(errno));
}

std::string to_text(std::span<std::int64_t const> shape) {
  std::string text = "[";
  for (std::int64_t const extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

void create_file(std::filesystem::path const& path, std::string_view header,
                 std::uint64_t data_bytes) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(std::filesystem::symlink_status(path, ignored))) {
    std::filesystem::remove(path, ignored);
  }
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.close();
  if (!file) fail_errno(path.string(), "can not be written");
  std::error_code error;
  std::filesystem::resize_file(path, header.size() + data_bytes, error);
  if (error) throw IoError(path.string() + ": can not be written: " + error.message());
}

FileWriter::FileWriter(std::filesystem::path const& path)
    : path_(path.string()), file_(::open(path.c_str(), O_WRONLY | O_CLOEXEC)) {
  if (file_ < 0) fail_errno(path_, "can not be opened for writing");
}

FileWriter::~FileWriter() {
  ::close(file_);
}

void FileWriter::write(std::uint64_t offset, std::span<std::byte const> bytes) {
  while (!bytes.empty()) {
    auto const written = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<::off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_errno(path_, "can not be written at byte " + std::to_string(offset));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

}  // namespace kmoe::io::detail
