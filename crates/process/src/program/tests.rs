//! Files that can't be started, and the defect found in each.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const AARCH64: u16 = 183;
const X86_64: u16 = 62;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn program(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns the defect of a program with this content.
    fn defect(&self, content: &[u8]) -> Defect {
        let path = self.program("program", content);
        match examine(Some(&path), Known::Refused) {
            Err(Unfit::File { defect, .. }) => defect,
            other => panic!("{other:?}"),
        }
    }
}

/// Returns a 64-bit header for this machine, with the path of a loader if there is one.
fn elf(machine: u16, loader: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 2;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = u8::from(loader.is_some());
    bytes[64] = 3;
    bytes[72] = 64 + 56;
    if let Some(loader) = loader {
        bytes[96] = u8::try_from(loader.len() + 1).unwrap();
        bytes.extend_from_slice(loader.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn here() -> u16 {
    match std::env::consts::ARCH {
        "aarch64" => AARCH64,
        _ => X86_64,
    }
}

fn another() -> u16 {
    AARCH64 + X86_64 - here()
}

#[test]
fn what_can_be_started_is_good() {
    let place = Place::new();
    let good = [
        "sh".to_owned(),
        "/bin/sh".to_owned(),
        std::env::current_exe()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned(),
        place.program("a", b"#!/bin/sh\nexit 0\n"),
        place.program("b", b"#! /usr/bin/env sh\n"),
        place.program("c", b"#!/usr/bin/env -S A=b sh -e\n"),
        place.program("d", b"#!/bin/sh"),
        place.program("e", &elf(here(), None)),
    ];
    for program in good {
        assert_eq!(examine(Some(&program), Known::Refused), Ok(()), "{program}");
    }
}

#[test]
fn another_machine_is_named_together_with_this_one() {
    let place = Place::new();
    let said = place.defect(&elf(another(), None)).to_string();
    assert!(
        said.contains("aarch64 (arm64)") && said.contains("x86_64 (amd64)"),
        "{said}"
    );
}

#[test]
fn what_the_kernel_may_run_in_a_mode_of_the_processor_is_not_complained_of_beforehand() {
    let place = Place::new();
    let mode = if here() == X86_64 { 3 } else { 40 };
    let mut program = elf(mode, None);
    program[4] = 1;
    let program = place.program("program", &program);

    assert_eq!(examine(Some(&program), Known::Nothing), Ok(()));
    assert!(examine(Some(&program), Known::Refused).is_err());
}

#[test]
fn a_loader_that_is_missing_is_named() {
    let place = Place::new();
    let said = place
        .defect(&elf(here(), Some("/lib/ld-musl-none.so.1")))
        .to_string();
    assert!(said.contains("'/lib/ld-musl-none.so.1'"), "{said}");
    assert!(said.contains("another C library"), "{said}");
}

#[test]
fn an_interpreter_that_is_missing_is_named() {
    let place = Place::new();
    for (script, words) in [
        (
            "#!/opt/none/python3 -u\n",
            "'/opt/none/python3' by its '#!' line, which is missing; is it in the image?",
        ),
        (
            "#!/usr/bin/env no-such-python\n",
            "'no-such-python' by its '#!' line, which is missing; is it in the image, and on PATH?",
        ),
        ("#!/usr/bin/env -S no-such-python -u\n", "'no-such-python'"),
        ("#!/usr/bin/env sh\r\n", "CR LF"),
        ("#!/bin/sh\r\n", "CR LF"),
        ("#!none/sh\n", "name it by its whole path"),
        (
            "#!/etc/passwd\n",
            "'/etc/passwd' by its '#!' line, which has no permission to be executed",
        ),
        ("#!/tmp\n", "which is a directory"),
    ] {
        let said = place.defect(script.as_bytes()).to_string();
        assert!(said.contains(words), "{script}: {said}");
    }
}

#[test]
fn what_is_neither_a_program_nor_a_script_is_named() {
    let place = Place::new();
    let long = [b"#!/".as_slice(), &[b'x'; 400]].concat();
    for (content, defect) in [
        (b"".as_slice(), Defect::Empty),
        (b"echo hello\n", Defect::NoInterpreterLine),
        (b"#!\necho hello\n", Defect::NoInterpreterNamed),
        (b"\xef\xbb\xbf#!/bin/sh\n", Defect::ByteOrderMark),
        (b"\x7fELF\x02\x01", Defect::CutShort),
        (b"MZ\x90\0", Defect::OtherSystem("Windows")),
        (b"\xcf\xfa\xed\xfe\x07", Defect::OtherSystem("macOS")),
        (b"\x01\0\x02", Defect::UnknownFormat),
        (&long, Defect::LineTooLong),
    ] {
        assert_eq!(place.defect(content), defect);
    }
}

#[test]
fn an_interpreter_that_leads_to_itself_has_an_end() {
    let place = Place::new();
    let path = place.0.path().join("program");
    let script = format!("#!{}\n", path.display());

    let said = place.defect(script.as_bytes()).to_string();

    assert!(said.contains("more than 5 deep"), "{said}");
}

#[test]
fn a_file_without_permission_and_a_directory_are_named() {
    let place = Place::new();
    let file = place.program("file", b"#!/bin/sh\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let directory = place.0.path().to_str().unwrap();
    for (program, words) in [
        (file.as_str(), "is it executable for user"),
        (directory, "is a directory"),
        ("/dev/null", "is not a regular file"),
        ("", "no command is configured"),
        ("./none", "in the working directory"),
        ("no-such-command", "on PATH?"),
    ] {
        let said = examine(Some(program), Known::Nothing).unwrap_err();
        assert!(said.to_string().contains(words), "{said}");
    }
}
