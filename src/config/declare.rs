//! One declaration for each section: its keys with their types, defaults and texts.
//!
//! ```text
//! section! { pub struct DrainConfig is Once "drain" { … } }
//!    ├─► struct DrainConfig   fields with types and documentation
//!    ├─► SECTION              rows of the table of keys: flags, environment, lb.toml, man page
//!    ├─► read                 from settings as written, with every mistake noted
//!    ├─► show                 for /api/config, without secrets
//!    └─► restart_keys         what differs and counts only after a restart
//! ```
//! What needs more than one key stands beside the declaration, in [`Checked`].

use serde_json::{Map, Value};

use super::key::{Section, Shape};
use super::reader::Reader;

/// What [`section!`] makes of a declaration.
pub(crate) trait Declared: Checked {
    /// The section and its keys.
    const SECTION: Section;

    /// Each key by itself.
    fn read_keys(reader: &mut Reader<'_>) -> Self;

    /// Every key with its value in force.
    fn show(&self) -> Map<String, Value>;

    /// The section: its keys, and what needs more than one of them.
    fn read(reader: &mut Reader<'_>) -> Self {
        Self::prepare(reader);
        let mut config = Self::read_keys(reader);
        config.check(reader);
        config
    }
}

/// What a section needs beyond its keys one by one.
pub(crate) trait Checked: Sized {
    /// Before the keys are read: which of them are left out.
    fn prepare(_reader: &mut Reader<'_>) {}

    /// After the keys are read: what they have to do with each other.
    fn check(&mut self, _reader: &mut Reader<'_>) {}
}

/// Declares a section.
///
/// ```text
/// section! {
///     /// Text for users: a comment in lb.toml, the man page, the documentation of the struct.
///     pub struct DoorConfig is Once "house.door" {
///         /// Text for users. The key is `width`; it has a default and bounds.
///         width: u32 = "90" in (60, 200);
///
///         /// Counts only after a restart. Durations have their bounds in milliseconds.
///         opens_after: Duration = "2s" in (0, HOUR) [restart];
///
///         /// Not set; `lb.toml` shows the example. The key is `type`, which Rust does not allow.
///         material as "type": Option<Material> = unset "oak";
///
///         /// A text that a function refuses or not; the advice is for when it does.
///         sign: String = "doc" where (names::label, "use lower-case letters");
///
///         /// One of some texts, and shown by a function of its own.
///         color: String = "red" among COLORS => shown_color;
///     } and {
///         /// Not a key: made of keys by `check`, or of a section below this one.
///         lock: LockConfig;
///     }
/// }
/// ```
/// `is Top ""`, `is Once "a"`, `is List "a"`, `is Named "a"`: how the section stands in the file
/// ([`Shape`]). `[restart]` behind the section's name: all of it counts only after a restart.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident is $shape:ident $path:literal $([$all:ident])? {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $key:literal)?: $type:ty =
                    $($default:literal)? $(unset $example:literal)?
                    $(in ($min:expr, $max:expr))? $(among $words:path)?
                    $(where ($check:path, $advice:expr))? $([$mark:ident])?
                    $(=> $show:path)?;
            )+
        } $(and {
            $(
                $(#[doc = $part_doc:literal])+
                $part:ident: $part_type:ty;
            )+
        })?
    ) => {
        $(#[doc = $about])+
        #[allow(rustdoc::broken_intra_doc_links, reason = "[consul] means a section of the file")]
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
            $($($(#[doc = $part_doc])+ pub $part: $part_type,)+)?
        }

        impl $crate::config::declare::Declared for $name {
            const SECTION: $crate::config::key::Section = $crate::config::key::Section {
                name: $path,
                shape: $crate::config::key::Shape::$shape,
                doc: $crate::config::declare::about(
                    $crate::config::key::Shape::$shape,
                    concat!($($about),+),
                ),
                keys: &[$($crate::config::key::Key {
                    name: $crate::config::declare::key_name!($field $($key)?),
                    kind: <$type as $crate::config::value::SettingValue>::KIND
                        $(.within($min, $max))? $(.among($words))?,
                    default: $crate::config::declare::optional!($($default)?),
                    example: concat!($($example)?),
                    check: $crate::config::declare::checked!($type $(, $check, $advice)?),
                    doc: concat!($($doc),+).trim_ascii(),
                },)+],
            };

            fn read_keys(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                Self {
                    $($field: reader.value($crate::config::declare::key_name!($field $($key)?)),)+
                    $($($part: Default::default(),)+)?
                }
            }

            fn show(&self) -> serde_json::Map<String, serde_json::Value> {
                [$((
                    $crate::config::declare::key_name!($field $($key)?).to_owned(),
                    $crate::config::declare::shown!($type, &self.$field $(, $show)?),
                )),+].into_iter().collect()
            }
        }

        impl $name {
            /// The keys that differ from `next` and count only after a restart; the section's name
            /// where that is true of all of them.
            #[must_use]
            #[allow(dead_code, reason = "not every file is read by a program that goes on running")]
            $vis fn restart_keys(&self, next: &Self) -> Vec<&'static str> {
                if $crate::config::declare::marked!($($all)?) {
                    return Vec::from_iter((self != next).then_some($path));
                }
                let keys = [$((
                    $crate::config::declare::marked!($($mark)?) && self.$field != next.$field,
                    concat!($path, ".", $crate::config::declare::key_name!($field $($key)?)),
                )),+];
                let keys = keys.into_iter().filter(|(differs, _)| *differs);
                // Keys at the top of the file stand in no section.
                keys.map(|(_, key)| key.trim_start_matches('.')).collect()
            }
        }
    };
}
pub(crate) use section;

/// The name of a key: the field's, or the one behind `as`.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
pub(crate) use key_name;

/// A value that may be left out.
macro_rules! optional {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}
pub(crate) use optional;

/// What stands behind `where`.
macro_rules! checked {
    ($type:ty) => {
        None
    };
    ($type:ty, $check:path, $advice:expr) => {
        Some($crate::config::key::Check::of(
            <$type as $crate::config::value::SettingValue>::KIND,
            $check,
            $advice,
        ))
    };
}
pub(crate) use checked;

/// Whether `[restart]` stands there.
macro_rules! marked {
    () => {
        false
    };
    (restart) => {
        true
    };
}
pub(crate) use marked;

/// A value as it is shown: by its type, or by the function behind `=>`.
macro_rules! shown {
    ($type:ty, $value:expr) => {
        <$type as $crate::config::value::SettingValue>::show($value)
    };
    ($type:ty, $value:expr, $show:path) => {
        $show($value)
    };
}
pub(crate) use shown;

/// The text of a section for users. Nothing stands above the keys at the top of the file.
pub(crate) const fn about(shape: Shape, text: &'static str) -> &'static str {
    match shape {
        Shape::Top => "",
        _ => text.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use serde_json::json;

    use super::super::error::{Findings, Location};
    use super::super::file;
    use super::super::key::{DAY, Kind, env_name};
    use super::super::raw::{Entry, Group, Placed, RawValue};
    use super::super::reader::ReadContext;
    use super::super::schema::Schema;
    use super::super::secret::Secret;
    use super::super::sections::Sections;
    use super::super::template::write_section;
    use super::super::words::words;
    use super::*;

    words! {
        /// What doors are made of.
        pub(crate) enum Material {
            /// Heavy.
            Oak = "oak",
            /// Light.
            Pine = "pine",
        }
    }

    const COLORS: &[&str] = &["red", "green"];

    section! {
        /// Doors of a house,
        /// in many colors.
        pub(crate) struct DoorConfig is Once "house.door" {
            /// How wide.
            width: u32 = "90" in (60, 200);

            /// When it
            /// opens.
            opens_after: Duration = "2s" in (0, DAY) [restart];

            /// Of what.
            material as "type": Option<Material> = unset "oak" [restart];

            /// Its color.
            color: String = "red" among COLORS;

            /// Its key.
            key: Option<Secret> = unset "KEY" => shown_key;

            /// A drawing.
            plan: Option<PathBuf> = unset "door.png";

            /// What stands on it.
            sign: Option<String> = unset "office" where (lower_case, "use lower-case letters");

            /// Anything more.
            extra: Option<Placed> = unset "{ knobs = 2 }";
        } and {
            /// Twice the width.
            double: u32;
        }
    }

    fn lower_case(text: &str) -> Result<(), &'static str> {
        match text.bytes().all(|byte| byte.is_ascii_lowercase()) {
            true => Ok(()),
            false => Err("is not in lower case"),
        }
    }

    section! {
        /// A knob.
        struct KnobConfig is List "knob" {
            /// How wide.
            width: u32 = "5" in (1, 9);
        }
    }

    impl Checked for KnobConfig {}

    fn shown_key(key: &Option<Secret>) -> Value {
        json!(key.is_some())
    }

    impl Checked for DoorConfig {
        fn prepare(reader: &mut Reader<'_>) {
            if reader.peek::<Option<Material>>("type") == Some(Material::Pine) {
                reader.leave_out("key");
            }
        }

        fn check(&mut self, reader: &mut Reader<'_>) {
            self.double = 2 * self.width;
            if self.color == "green" {
                reader.warn("color", "is hardly seen", "write \"red\"");
            }
        }
    }

    fn read(settings: &[(&'static str, RawValue)]) -> (DoorConfig, Findings) {
        let mut group = Group::new(Location::Absent);
        for (line, (name, value)) in settings.iter().enumerate() {
            let entry = Entry {
                value: value.clone(),
                place: Location::File(Path::new("conf/lb.toml").into(), line + 1),
                layer: 0,
            };
            group.entries.insert(name, entry);
        }
        let mut findings = Findings::default();
        let door = DoorConfig::read(&mut Reader::new(
            &DoorConfig::SECTION,
            "house.door".to_owned(),
            &group,
            ReadContext::default(),
            &mut findings,
        ));
        (door, findings)
    }

    fn text(text: &str) -> RawValue {
        RawValue::Text(text.to_owned())
    }

    #[test]
    fn a_declaration_makes_the_rows_of_the_table() {
        let section = DoorConfig::SECTION;
        assert_eq!(
            (section.name, section.shape, section.doc),
            (
                "house.door",
                Shape::Once,
                "Doors of a house, in many colors."
            )
        );
        let rows: Vec<_> = section
            .keys
            .iter()
            .map(|key| (key.name, key.kind, key.default, key.example, key.doc))
            .collect();
        assert_eq!(
            rows,
            [
                ("width", Kind::Count(60, 200), Some("90"), "", "How wide."),
                (
                    "opens_after",
                    Kind::Time(0, DAY),
                    Some("2s"),
                    "",
                    "When it opens."
                ),
                (
                    "type",
                    Kind::Word(&["oak", "pine"]),
                    None,
                    "oak",
                    "Of what."
                ),
                ("color", Kind::Word(COLORS), Some("red"), "", "Its color."),
                ("key", Kind::Secret, None, "KEY", "Its key."),
                ("plan", Kind::Path, None, "door.png", "A drawing."),
                ("sign", Kind::Text, None, "office", "What stands on it."),
                ("extra", Kind::Free, None, "{ knobs = 2 }", "Anything more."),
            ]
        );
    }

    #[test]
    fn names_and_the_example_file_follow_the_rows() {
        let section = DoorConfig::SECTION;
        let path = section.path(&section.keys[1]);
        assert_eq!(path, "house.door.opens_after");
        assert_eq!(env_name(&path), "LB_HOUSE_DOOR_OPENS_AFTER");
        let mut text = String::new();
        write_section(&mut text, &section, false);
        assert_eq!(
            text,
            "# Doors of a house, in many colors.\n[house.door]\n\
             # How wide.\n#width = 90\n\
             # When it opens.\n#opens_after = \"2s\"\n\
             # Of what.\n#type = \"oak\"\n\
             # Its color.\n#color = \"red\"\n\
             # Its key.\n#key = \"KEY\"\n\
             # A drawing.\n#plan = \"door.png\"\n\
             # What stands on it.\n#sign = \"office\"\n\
             # Anything more.\n#extra = { knobs = 2 }\n"
        );
    }

    #[test]
    fn values_are_read_checked_and_shown() {
        let (door, findings) = read(&[]);
        assert!(findings.mistakes.is_empty() && findings.warnings.is_empty());
        let expected = DoorConfig {
            width: 90,
            opens_after: Duration::from_secs(2),
            material: None,
            color: "red".to_owned(),
            key: None,
            plan: None,
            sign: None,
            extra: None,
            double: 180,
        };
        assert_eq!(door, expected);
        let (door, findings) = read(&[
            ("width", RawValue::Integer("100".to_owned())),
            ("opens_after", text("1m30s")),
            ("type", text("oak")),
            ("color", text("green")),
            ("key", text("hush")),
            ("plan", text("a.png")),
        ]);
        assert!(findings.mistakes.is_empty());
        assert_eq!(
            findings.warnings[0].to_string(),
            "conf/lb.toml:4: house.door.color = \"green\" is hardly seen; write \"red\""
        );
        assert_eq!(
            Value::Object(door.show()),
            json!({
                "width": 100,
                "opens_after": "1m30s",
                "type": "oak",
                "color": "green",
                "key": true,
                "plan": "conf/a.png",
                "sign": null,
                "extra": null,
            })
        );
        let (door, _) = read(&[("type", text("pine")), ("key", text("hush"))]);
        assert_eq!((door.material, door.key), (Some(Material::Pine), None));
        assert_eq!(Material::Pine.as_str(), "pine");
    }

    #[test]
    fn what_does_not_fit_is_reported_and_the_default_stands_in() {
        let (door, findings) = read(&[
            ("width", RawValue::Integer("7".to_owned())),
            ("type", text("oaks")),
            ("key", RawValue::Bool(true)),
            ("sign", text("Office")),
        ]);
        assert_eq!((door.width, door.material), (90, None));
        let mistakes: Vec<_> = findings.mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            mistakes,
            [
                "conf/lb.toml:1: house.door.width = 7 is too small; write a whole number from 60 to 200",
                "conf/lb.toml:2: house.door.type = \"oaks\" is not one of the known words; did you mean oak? write one of: oak, pine",
                "conf/lb.toml:3: house.door.key = *** is not a text; write a text in quotes",
                "conf/lb.toml:4: house.door.sign = \"Office\" is not in lower case; use lower-case letters",
            ]
        );
    }

    #[test]
    fn free_values_keep_the_places_of_their_parts_and_hold_declared_tables() {
        const SCHEMA: Schema = Schema {
            sections: &[DoorConfig::SECTION],
            moved: &[],
            takes_misplaced: true,
            shown_in: "config/house.toml",
        };
        let file = "[house.door]\nwidth = 70\n[house.door.extra]\nplate.gold = 1.5\nknobs = [\n { width = 3 },\n { widht = 3, width = 10 },\n]\n";
        let mut findings = Findings::default();
        let path = Path::new("house.toml").into();
        let Findings { mistakes, warnings } = &mut findings;
        let settings = file::read(&SCHEMA, path, file, mistakes, warnings);
        let mut sections = Sections {
            settings: &settings,
            context: ReadContext::default(),
            findings: &mut findings,
        };
        let door: DoorConfig = sections.once();
        let RawValue::Table(extra) = door.extra.unwrap().value else {
            panic!()
        };
        let place = |placed: &Placed| placed.place.to_string();
        assert_eq!(place(&extra["knobs"]), "house.toml:5");
        let RawValue::Table(plate) = &extra["plate"].value else {
            panic!()
        };
        assert_eq!(place(&plate["gold"]), "house.toml:4");
        assert_eq!(plate["gold"].value, RawValue::Other("1.5".to_owned()));
        let RawValue::List(knobs) = &extra["knobs"].value else {
            panic!()
        };
        let mut widths = Vec::new();
        for (at, knob) in knobs.iter().enumerate() {
            let RawValue::Table(table) = &knob.value else {
                panic!()
            };
            let path = format!("house.door.extra.knobs[{at}]");
            let knob: KnobConfig = sections.table(&path, &knob.place, table);
            widths.push(knob.width);
        }
        assert_eq!(widths, [3, 5]);
        let told: Vec<_> = findings.mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "house.toml:7: house.door.extra.knobs[1].widht = 3 is not a known key; did you mean width?",
                "house.toml:7: house.door.extra.knobs[1].width = 10 is too large; write a whole number from 1 to 9",
            ]
        );
    }

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let (door, _) = read(&[]);
        let mut other = door.clone();
        (other.width, other.color) = (100, "green".to_owned());
        assert!(door.restart_keys(&other).is_empty());
        other.opens_after *= 2;
        other.material = Some(Material::Oak);
        assert_eq!(
            door.restart_keys(&other),
            ["house.door.opens_after", "house.door.type"]
        );
    }
}
