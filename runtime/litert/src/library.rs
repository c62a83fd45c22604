//! The C library: where it is found, and that it is one.

use crate::error::{Error, words};
use crate::raw::{Functions, MODEL_CREATE_REPORTING, ModelCreateReporting};
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Environment variable with the path of the C library.
pub const LIBRARY_ENV: &str = "PERWATT_LITERT_LIBRARY";

/// Names by which the loader may know it.
const NAMES: [&str; 2] = ["libtensorflowlite_c.so", "libtensorflow-lite.so"];

/// A LiteRT C library that was loaded. Clones share it.
#[derive(Clone)]
pub struct Library {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    version: String,
    functions: Functions,
    create_reporting: Option<ModelCreateReporting>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the library that [`LIBRARY_ENV`] names, or else one that the loader knows by its usual names.
    ///
    /// # Errors
    /// When there is none, or it is another library.
    pub fn find() -> Result<Self, Error> {
        if let Some(path) = std::env::var_os(LIBRARY_ENV).filter(|path| !path.is_empty()) {
            return Self::open(Path::new(&path));
        }
        let mut tried = Vec::new();
        for name in NAMES {
            match Self::open(Path::new(name)) {
                Err(Error::NoLibrary { tried: said }) => tried.push(said),
                other => return other,
            }
        }
        Err(Error::NoLibrary {
            tried: tried.join("; "),
        })
    }

    /// Loads the library at `path`. It stays loaded until the process ends.
    ///
    /// # Errors
    /// When it cannot be loaded, or is another library.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // SAFETY: loading runs the library's initialisers. Whoever sets the path, or installs a library under
        // one of its usual names, decides what code this process runs, as with every library it links.
        let library = unsafe { libloading::Library::new(path) };
        let library = library.map_err(|error| Error::NoLibrary {
            tried: describe(path, &error),
        })?;
        // Never unloaded: it may have threads, and destructors that run at the end of the process.
        let library = ManuallyDrop::new(library);
        let wrong = |problem: String| Error::Library {
            path: path.to_owned(),
            problem,
        };
        // SAFETY: a library with all these names is a LiteRT C library, whose types are stable.
        let functions = unsafe { Functions::find(&library) };
        let functions = functions.map_err(|error| wrong(words(&error)))?;
        // SAFETY: as above.
        let reporting = unsafe { library.get::<ModelCreateReporting>(MODEL_CREATE_REPORTING) };
        let create_reporting = reporting.ok().map(|symbol| *symbol);
        // SAFETY: the function takes nothing and gives a text that lives as long as the library.
        let version = unsafe { (functions.version)() };
        if version.is_null() {
            return Err(wrong("it has no version".into()));
        }
        // SAFETY: it is not null, and ends with 0.
        let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                version,
                functions,
                create_reporting,
            }),
        })
    }

    /// Its version, such as `2.17.1`.
    pub fn version(&self) -> &str {
        &self.shared.version
    }

    /// The path or name by which it was loaded.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn functions(&self) -> &Functions {
        &self.shared.functions
    }

    pub(crate) fn create_reporting(&self) -> Option<ModelCreateReporting> {
        self.shared.create_reporting
    }
}

/// The loader's words with the path in front, unless they have it already.
fn describe(path: &Path, error: &libloading::Error) -> String {
    let (path, said) = (path.display().to_string(), words(error));
    if said.contains(&path) {
        said
    } else {
        format!("{path}: {said}")
    }
}
