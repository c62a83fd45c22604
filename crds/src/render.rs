//! The custom resource definitions as files.

use std::path::Path;

/// Why the definitions could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A definition could not be turned into YAML.
    #[error("cannot render a custom resource definition: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// File name and content of every definition.
///
/// # Errors
/// When a definition cannot be turned into YAML.
pub fn files() -> Result<Vec<(String, String)>, RenderError> {
    crate::definitions()
        .into_iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.metadata.name.as_deref().unwrap_or_default());
            let yaml = serde_yaml::to_string(&definition)?;
            Ok((
                name,
                format!("# Made by `make crds` from crds/src. Do not edit.\n{yaml}"),
            ))
        })
        .collect()
}

/// Writes every definition into `folder`.
///
/// # Errors
/// When a definition cannot be rendered or a file cannot be written.
pub fn write(folder: &Path) -> Result<(), RenderError> {
    for (name, content) in files()? {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|source| RenderError::Write {
            path: path.display().to_string(),
            source,
        })?;
    }
    Ok(())
}
