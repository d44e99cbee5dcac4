"""What trials leave behind: the result store on disk, and its mirror in MLflow."""
