/* SPDX-License-Identifier: GPL-2.0-or-later
 * ELF32 little-endian ARM executables: loadable segments and function symbols. Every offset is checked against the
 * file. */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "vboard.h"

elf_symbol *elf_functions;
size_t elf_function_count;
static uint8_t *image;
static size_t image_bytes;

static void reject(const char *path, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
static void reject(const char *path, const char *format, ...) {
  va_list arguments;
  fprintf(stderr, "rqdkm-vboard: %s: ", path);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(EXIT_CODE_USAGE);
}

static void read_file(const char *path) {
  enum { LIMIT = 256 << 20 };
  FILE *file = fopen(path, "rb");
  if (!file) reject(path, "%s", strerror(errno));
  size_t capacity = 1 << 20;
  image = malloc(capacity);
  while (image) {
    size_t got = fread(image + image_bytes, 1, capacity - image_bytes, file);
    image_bytes += got;
    if (got == 0 || image_bytes > LIMIT) break;
    if (image_bytes == capacity) image = realloc(image, capacity *= 2);
  }
  if (!image) reject(path, "out of memory");
  if (ferror(file)) reject(path, "%s", strerror(errno));
  if (image_bytes > LIMIT) reject(path, "larger than any firmware");
  fclose(file);
}

/* Is [offset, offset + bytes) in the file? `align`: of the structures there. */
static bool inside(uint64_t offset, uint64_t bytes, unsigned align) {
  return offset % align == 0 && offset <= image_bytes && bytes <= image_bytes - offset;
}

static int compare_symbols(const void *a, const void *b) {
  const elf_symbol *x = a, *y = b;
  if (x->start != y->start) return x->start < y->start ? -1 : 1;
  return y->end < x->end ? -1 : y->end > x->end; /* the longer one first */
}

static void load_symbols(const Elf32_Ehdr *header) {
  if (!header->e_shoff || header->e_shentsize != sizeof(Elf32_Shdr) ||
      !inside(header->e_shoff, (uint64_t)header->e_shnum * sizeof(Elf32_Shdr), 4)) {
    return; /* stripped: no profile names */
  }
  const Elf32_Shdr *sections = (const void *)(image + header->e_shoff);
  for (unsigned s = 0; s < header->e_shnum; s++) {
    if (sections[s].sh_type != SHT_SYMTAB || sections[s].sh_link >= header->e_shnum) continue;
    const Elf32_Shdr *strings = &sections[sections[s].sh_link];
    if (!inside(sections[s].sh_offset, sections[s].sh_size, 4) || !inside(strings->sh_offset, strings->sh_size, 1))
      continue;
    if (!strings->sh_size || image[strings->sh_offset + strings->sh_size - 1] != 0) continue;
    const Elf32_Sym *symbols = (const void *)(image + sections[s].sh_offset);
    size_t count = sections[s].sh_size / sizeof *symbols;
    elf_symbol *grown = realloc(elf_functions, (elf_function_count + count) * sizeof *grown);
    if (!grown) return;
    elf_functions = grown;
    for (size_t k = 0; k < count; k++) {
      if (ELF32_ST_TYPE(symbols[k].st_info) != STT_FUNC || symbols[k].st_name >= strings->sh_size) continue;
      uint32_t start = symbols[k].st_value & ~1u;
      elf_functions[elf_function_count++] = (elf_symbol){start, start + symbols[k].st_size,
                                                         (const char *)image + strings->sh_offset + symbols[k].st_name};
    }
  }
  if (elf_function_count) qsort(elf_functions, elf_function_count, sizeof *elf_functions, compare_symbols);
  size_t kept = 0; /* aliases at one address: keep the first; symbols without a size (assembly) reach to the next one */
  for (size_t k = 0; k < elf_function_count; k++) {
    if (kept && elf_functions[kept - 1].start == elf_functions[k].start) continue;
    elf_functions[kept++] = elf_functions[k];
  }
  elf_function_count = kept;
  for (size_t k = 0; k < kept; k++) {
    if (elf_functions[k].end != elf_functions[k].start) continue;
    elf_functions[k].end = k + 1 < kept ? elf_functions[k + 1].start : elf_functions[k].start + 2;
  }
}

void elf_load(const char *path) {
  read_file(path);
  const Elf32_Ehdr *header = (const void *)image;
  if (image_bytes == 0) reject(path, "empty file");
  if (image_bytes < 4 || memcmp(image, ELFMAG, SELFMAG) != 0) reject(path, "not an ELF file");
  if (image_bytes < sizeof *header) reject(path, "truncated ELF header");
  if (header->e_ident[EI_CLASS] != ELFCLASS32 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
      header->e_machine != EM_ARM) {
    reject(path, "not a 32-bit little-endian ARM ELF (machine %u)", header->e_machine);
  }
  if (header->e_type != ET_EXEC) reject(path, "not an executable (ELF type %u): link it first", header->e_type);
  if (!header->e_phnum || header->e_phentsize != sizeof(Elf32_Phdr)) reject(path, "no program headers");
  if (!inside(header->e_phoff, (uint64_t)header->e_phnum * sizeof(Elf32_Phdr), 4))
    reject(path, "truncated or damaged: program headers are outside the file");
  const Elf32_Phdr *segments = (const void *)(image + header->e_phoff);
  bool any = false;
  for (unsigned k = 0; k < header->e_phnum; k++) {
    const Elf32_Phdr *segment = &segments[k];
    if (segment->p_type != PT_LOAD || segment->p_filesz == 0) continue;
    if (!inside(segment->p_offset, segment->p_filesz, 1)) reject(path, "truncated: segment %u is outside the file", k);
    uint8_t *target = memory_host(segment->p_paddr, segment->p_filesz, false);
    if (!target || segment->p_paddr >= 0xe0000000u) {
      reject(path, "segment %u (0x%08x, %u bytes) does not fit flash, SRAM or CCM of the STM32F407", k,
             segment->p_paddr, segment->p_filesz);
    }
    memcpy(target, image + segment->p_offset, segment->p_filesz);
    any = true;
  }
  if (!any) reject(path, "nothing to load");
  load_symbols(header);
}

int elf_function_at(uint32_t address) {
  size_t low = 0, high = elf_function_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (elf_functions[middle].start <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low && address < elf_functions[low - 1].end ? (int)(low - 1) : -1;
}
