//! The text form of a diagnosis.

use std::fmt;

use super::finding::{Cut, Diagnosis, NotAllowed, Severity};

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in namespace {}", self.workload, self.namespace)?;
        if let Some(container) = &self.container {
            write!(f, ", container {container}")?;
        }
        writeln!(f)?;
        if let Some(drain) = &self.drain {
            writeln!(f, "{drain}")?;
        }
        // Worst first, and in the order of the checks within each severity.
        for severity in [Severity::Problem, Severity::Warning, Severity::Unknown] {
            for finding in self.findings.iter().filter(|f| f.severity == severity) {
                let (id, object) = (finding.id, &finding.object);
                // All refused requests are listed together below.
                if finding.denied.is_some() {
                    continue;
                }
                writeln!(f, "\n{severity:<8} {id}  ({object})")?;
                writeln!(f, "         {}", finding.happens)?;
                if let Some(remedy) = &finding.remedy {
                    writeln!(f, "         > {remedy}")?;
                }
            }
        }
        if let Some(not_allowed) = &self.not_allowed {
            writeln!(f, "\n{not_allowed}")?;
        }
        writeln!(f)?;
        for finding in self.findings.iter().filter(|f| f.severity == Severity::Ok) {
            writeln!(
                f,
                "{:<8} {:<26} {}",
                Severity::Ok,
                finding.id,
                finding.happens
            )?;
        }
        let count = |severity| self.count(severity);
        write!(
            f,
            "\nproblems: {}, warnings: {}, unknown: {}, ok: {}",
            count(Severity::Problem),
            count(Severity::Warning),
            count(Severity::Unknown),
            count(Severity::Ok),
        )
    }
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "unknown  {}", self.checks.join(", "))?;
        writeln!(
            f,
            "         Whoever runs this may not {}.",
            self.requests.join(", ")
        )?;
        write!(
            f,
            "         > Run it with a kubeconfig that may, or add these rules to the Role: {}",
            self.rules
        )
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "A drain has {} s", self.grace)?;
        if self.prestop > 0.0 {
            write!(f, ", less {} s for preStop", self.prestop)?;
        }
        if self.assumed {
            write!(
                f,
                " (and the default settings, as the program's are not known)"
            )?;
        }
        write!(
            f,
            ". At the latest, from SIGTERM on: nobody routes here after {} s, idle connections are closed at {} s, \
             handlers are told to stop at {} s, what is left is given back at {} s, the process is gone at {} s.",
            self.routing, self.leaving, self.told, self.cut, self.exit,
        )
    }
}
