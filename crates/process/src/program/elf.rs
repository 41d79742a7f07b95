//! Checks the header of an ELF file: the machine that it is for, and the loader that it needs.
//!
//! The layout is that of elf(5): the first 16 bytes are the same for all machines and say how to read the rest.

use std::{fmt, fs::File, os::unix::fs::FileExt, path::Path};

use super::{Defect, Known, file, others_may_run_it};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// The type of the program header with the loader's path (`PT_INTERP`).
const INTERPRETER: u32 = 3;
/// Longer than any path: the kernel refuses such a path.
const PATH_MAX: u64 = 4096;

/// A kind of processor, by its number in an ELF file and by the width of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    number: u16,
    bits: u8,
}

struct Header<'a> {
    bytes: &'a [u8],
    wide: bool,
    little: bool,
}

/// Checks that this file is for this machine, and that its loader is there.
pub(super) fn examine(head: &[u8], whole: &File, known: Known, depth: usize) -> Result<(), Defect> {
    let header = Header::read(head).ok_or(Defect::CutShort)?;
    let machine = header.machine().ok_or(Defect::CutShort)?;
    let here = Machine::here();
    if let Some(here) = here
        && !(machine == here && header.little == cfg!(target_endian = "little"))
    {
        // An emulator may run it, or the kernel itself in a mode of the processor.
        let may_run =
            known == Known::Nothing && (machine.is_a_mode_of(here) || others_may_run_it());
        return match may_run {
            true => Ok(()),
            false => Err(Defect::OtherMachine {
                built_for: machine,
                here,
            }),
        };
    }
    let Some(loader) = header.loader(whole) else {
        return Ok(());
    };
    file(Path::new(&loader), known, depth + 1).map_err(|defect| Defect::Loader {
        name: loader,
        defect: Box::new(defect),
    })
}

// === impl Header ===

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let wide = *bytes.get(4)? == 2;
        let little = *bytes.get(5)? == 1;
        let whole = if wide { 64 } else { 52 };
        (bytes.len() >= whole).then_some(Self {
            bytes,
            wide,
            little,
        })
    }

    fn machine(&self) -> Option<Machine> {
        Some(Machine {
            number: self.short(18)?,
            bits: if self.wide { 64 } else { 32 },
        })
    }

    /// Returns the path of its loader. `None` for a static program, and if it can't be read.
    fn loader(&self, whole: &File) -> Option<String> {
        let (offset, size, count) = match self.wide {
            true => (self.long(32)?, self.short(54)?, self.short(56)?),
            false => (self.word(28)?.into(), self.short(42)?, self.short(44)?),
        };
        let mut headers = vec![0; usize::from(size) * usize::from(count)];
        whole.read_exact_at(&mut headers, offset).ok()?;
        let mut headers = headers.chunks_exact(usize::from(size).max(1));
        let header = headers.find_map(|bytes| {
            let header = Header { bytes, ..*self };
            (header.word(0)? == INTERPRETER).then_some(header)
        })?;
        let (at, length) = match self.wide {
            true => (header.long(8)?, header.long(32)?),
            false => (header.word(4)?.into(), header.word(16)?.into()),
        };
        let mut path = vec![0; usize::try_from(length.min(PATH_MAX)).ok()?];
        whole.read_exact_at(&mut path, at).ok()?;
        let end = path.iter().position(|byte| *byte == 0);
        path.truncate(end.unwrap_or(path.len()));
        String::from_utf8(path).ok()
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at + 2)?.try_into().ok()?;
        Some(match self.little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?.try_into().ok()?;
        Some(match self.little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    fn long(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at + 8)?.try_into().ok()?;
        Some(match self.little {
            true => u64::from_le_bytes(bytes),
            false => u64::from_be_bytes(bytes),
        })
    }
}

// === impl Machine ===

impl Machine {
    const X86: u16 = 3;
    const ARM: u16 = 40;
    const X86_64: u16 = 62;
    const AARCH64: u16 = 183;

    /// Returns the machine that this program itself is built for. `None` for one that is not in the table.
    pub(super) fn here() -> Option<Self> {
        let number = match std::env::consts::ARCH {
            "x86" => Self::X86,
            "arm" => Self::ARM,
            "x86_64" => Self::X86_64,
            "aarch64" => Self::AARCH64,
            "powerpc64" => 21,
            "s390x" => 22,
            "riscv64" => 243,
            "loongarch64" => 258,
            _ => return None,
        };
        let bits = if cfg!(target_pointer_width = "64") {
            64
        } else {
            32
        };
        Some(Self { number, bits })
    }

    /// Whether the other kind of processor has a mode for these programs, which the kernel may support.
    fn is_a_mode_of(self, here: Self) -> bool {
        matches!(
            (self.number, here.number),
            (Self::X86 | Self::X86_64, Self::X86_64 | Self::X86)
                | (Self::ARM | Self::AARCH64, Self::AARCH64 | Self::ARM)
        )
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.number {
            Self::X86 => "x86",
            Self::ARM => "arm",
            Self::X86_64 => "x86_64 (amd64)",
            Self::AARCH64 => "aarch64 (arm64)",
            8 => "mips",
            20 => "powerpc",
            21 => "powerpc64",
            22 => "s390x",
            243 => "riscv",
            258 => "loongarch",
            number => return write!(f, "a machine of the number {number} (ELF)"),
        };
        f.write_str(name)?;
        match (self.number, self.bits) {
            (Self::X86_64 | Self::AARCH64 | 21 | 22, 32) | (243 | 258 | 8, 32) => {
                f.write_str(", 32 bit")
            }
            (243 | 258 | 8, _) => f.write_str(", 64 bit"),
            _ => Ok(()),
        }
    }
}
