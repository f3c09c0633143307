"""The commands that users run: one thin file per verb. Ray is used only here."""
